"""Events of who did what."""
