"""The Kubernetes launcher."""
