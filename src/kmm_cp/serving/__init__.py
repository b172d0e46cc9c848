"""What a daemon talks to: sessions, pushes, reports and credentials. Knows no reconciler."""
