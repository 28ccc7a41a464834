"""A whole restore, which runs where the bytes land: plan, engine, target."""
