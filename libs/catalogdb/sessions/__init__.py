"""Transactions of sessions: open, take a part, finish it, seal or reject."""
