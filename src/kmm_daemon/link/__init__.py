"""The daemon's session with the control plane."""
