"""The hand-over from a filter to its successor, without an error at a client: an upgrade."""
