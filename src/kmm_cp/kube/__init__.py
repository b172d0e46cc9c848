"""The Kubernetes API: client, informers, events. The only door to kubernetes_asyncio."""
