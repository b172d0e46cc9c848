"""What the control plane, the daemon and the command line have in common."""
