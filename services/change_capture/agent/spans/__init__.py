"""The span server: where chunkers take the bytes that a capture offers."""
