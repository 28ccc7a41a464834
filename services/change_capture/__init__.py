"""change-capture: finds what changed on volumes and offers it to the chunkers.

Purpose:   the agent on each node reads changed extents from a frozen view, hashes them and serves
           the wanted bytes; the coordinator opens sessions, commands agents and tells clients how
           it ended.
Consumes:  commands by REST (coordinator) and by authenticated RPC (agent), span requests by TCP
           (agent).
Produces:  `backcast.block-changes` (agent); sessions and volumes in the catalog (coordinator).
Owns:      what the drivers keep on each node: fingerprint files.
Never does: store a chunk, decide what is new, or acknowledge a snapshot.
"""
