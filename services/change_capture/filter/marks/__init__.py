"""What a filter knows of writes: bits in memory, their chain of cuts, and the files of both."""
