"""Tells from the bytes of a snapshot whether it shows one instant of a disk that many nodes write.

Writers on several nodes write numbered, checksummed records to one shared disk. A record names
whatever its writer has read of the others before. So each effect stands on the disk together with
the names of its causes, and a snapshot that has an effect without its cause was not one cut.
"""
