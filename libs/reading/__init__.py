"""Reading stored items back: from a place in a pack to verified plain bytes."""
