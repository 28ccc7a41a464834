"""Copies of everything at another store: making them, mending them, counting them."""
