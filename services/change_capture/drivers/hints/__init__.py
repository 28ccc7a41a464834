"""Driver `hints`: somebody else says what changed; nothing of the volume's size is read."""
