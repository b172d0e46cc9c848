"""A cluster whose nodes run real kubelets and containerds, one of them on this machine's kernel."""
