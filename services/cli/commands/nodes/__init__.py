"""``backcast node``."""
