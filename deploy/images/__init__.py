"""Images of PostgreSQL, Kafka and MinIO for tests, on a Debian base of our own; none is pulled."""
