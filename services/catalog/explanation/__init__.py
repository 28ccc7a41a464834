"""Why a pack is there, and who uses a chunk."""
