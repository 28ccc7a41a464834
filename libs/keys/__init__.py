"""Envelope encryption: data keys of domains, wrapped by one key-encryption key that people keep.

Wrapped keys lie in the bucket before their first use, so the bucket and the key-encryption key
together are enough to read everything. Losing the key-encryption key is losing the data: there is
no other way in.
"""
