"""Libraries shared by the services; they never import a service."""
