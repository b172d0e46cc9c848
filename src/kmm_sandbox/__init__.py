"""A whole cluster on one machine, with real kernels for nodes."""
