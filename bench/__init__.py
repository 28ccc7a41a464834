"""The benchmark: how fast Backcast protects and returns a disk, beside the bare path and its peers.

One run measures every subject (the ceiling, restic, borg, Backcast, …) over the same images, on the
same kind of S3 server, interleaved, so that only ratios within one run are ever compared.
"""
