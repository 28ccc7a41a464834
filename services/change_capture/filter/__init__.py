"""The volume filter: an NBD server in front of a volume, which knows what was written since a cut.

One process serves one volume. Whoever writes the volume does so through it. `volume` has the write
path and its order; `serving` speaks NBD with clients; `control` speaks with the agent.
"""
