"""Writes the pages of the reference that are made of code: `make generate`."""
