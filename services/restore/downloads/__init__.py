"""Byte ranges of a volume, streamed."""
