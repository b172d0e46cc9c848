"""The control plane: from Modules to the state of every node."""
