"""chunker: decides which chunks are new, takes only those bytes, and seals snapshots.

Purpose:   dedup, verify, compress, encrypt, pack, PUT; write the new block map; seal.
Consumes:  `backcast.block-changes`; bytes from the agents that it dials.
Produces:  packs and manifests in the object store; PackStored and SnapshotSealed in the catalog's
           log.
Owns:      nothing that survives it; a successor takes its parts over.
Never does: believe an id that it has not computed itself, or delete an object.
"""
