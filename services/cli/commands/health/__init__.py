"""Whether all is well, and how much room there is."""
