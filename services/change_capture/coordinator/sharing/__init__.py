"""Volumes that several nodes write: who they are, and what each is at a barrier."""
