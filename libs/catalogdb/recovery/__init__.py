"""Transactions of a catalog that was lost or went back, and of its checkpoints."""
