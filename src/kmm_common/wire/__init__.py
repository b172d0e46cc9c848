"""What the control plane and a daemon say to each other: messages, their bounds and encoding."""
