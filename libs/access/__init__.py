"""What services that have the catalog know of their callers: accepted tokens, and the audit log."""
