"""The daemon: one per node, the only part that touches a kernel."""
