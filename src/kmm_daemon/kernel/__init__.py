"""Everything that touches the kernel of the node: the implementation of values.Kernel."""
