"""The Kubernetes API of KMM: models, names, and the CRDs generated from them."""
