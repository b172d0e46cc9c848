"""The rules of the control plane: pure, without async, I/O or clock."""
