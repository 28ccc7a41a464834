"""Block maps: persistent trees from chunk index to chunk id, one root per snapshot of a volume.

Nodes are immutable and named by their content, so a snapshot shares every unchanged subtree with
its base. Bytes in, bytes out: nodes come and go through functions of the caller; nothing here does
I/O.
"""
