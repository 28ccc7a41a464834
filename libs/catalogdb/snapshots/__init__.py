"""Transactions of sealed snapshots: find them, read them, keep them, expire them."""
