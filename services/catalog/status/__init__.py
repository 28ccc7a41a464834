"""Whether all is well, and how much room recovery points take."""
