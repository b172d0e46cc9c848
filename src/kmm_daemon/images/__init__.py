"""The image store of a node: pull, verify, unpack, keep."""
