"""OCI images as both sides read them: references, digests, manifests, platforms, credentials."""
