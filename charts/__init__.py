"""Writes the Helm chart from the manifests: `make generate`."""
