"""The demonstration: a real file-system image is protected, changed, lost and given back.

Purpose: show a newcomer, with one command, that the product does what it says, on real servers.
Consumes: files of this machine, e2fsprogs, the public command `backcast`.
Produces: a table of what happened; exit status 0 only if every restored byte is right.
Owns: a temporary folder with its own BACKCAST_HOME, gone afterwards.
Never does: touch another BACKCAST_HOME, need root, or leave a process behind.
"""
