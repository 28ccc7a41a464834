"""Transactions that end packs: condemning, sweeping, rewriting."""
