"""Changing keys: the key-encryption key above all others, and the data keys of domains."""
