"""Driver `reflink`: keeps a clone of the base, and compares where blocks are."""
