"""What the control plane asks of registries."""
