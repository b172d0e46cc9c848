"""Nodes with kernels of their own; the sandbox plays kubelet for them and runs KMM as processes."""
