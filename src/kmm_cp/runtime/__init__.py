"""Queue, controller, manager: the loop itself. Knows no Kubernetes kind."""
