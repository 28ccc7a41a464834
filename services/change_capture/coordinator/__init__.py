"""The coordinator: sessions, from a request to its outcome."""
