"""A node's side of a barrier: holding writes, cutting frozen views, releasing."""
