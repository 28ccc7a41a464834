"""Transactions of packs: the index of what lies in them, pins, damage."""
