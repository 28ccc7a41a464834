"""Address translation in both directions, and what differs between two points."""
