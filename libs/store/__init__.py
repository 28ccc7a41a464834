"""The object store: one port, its adapters, retries, key names and the start-up probe."""
