"""Driver `scan`: reads all data and compares fingerprints; works on anything that can be read."""
