"""PostgreSQL, Kafka and S3 servers as local processes, and how each is installed."""
