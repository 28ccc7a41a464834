"""Ways to run Backcast: local processes, containers."""
