"""One-shot set-up: `python -m services.catalog.init`."""
