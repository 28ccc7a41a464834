"""The package of a node outside of Kubernetes: agent and volume filters, as a .deb."""
