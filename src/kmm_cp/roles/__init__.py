"""What a process of the control plane is: the only place that builds and wires objects."""
