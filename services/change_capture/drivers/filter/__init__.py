"""Driver `filter`: the volume filter in front of a volume says what was written."""
