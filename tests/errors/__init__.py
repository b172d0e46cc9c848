"""What a real kernel and a real modprobe say about every error: `make collect-errors` writes it."""
