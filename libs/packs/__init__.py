"""Byte formats of what lies in the object store: chunks, frames, packs and manifests.

Bytes in, bytes out: nothing here does I/O, looks at a clock or draws a random number, so that the
same input always gives the same object and a retried PUT sends identical bytes. Byte tables:
docs/formats/.
"""
