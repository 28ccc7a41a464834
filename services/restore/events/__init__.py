"""The catalog's event log for whoever reads it without Kafka."""
