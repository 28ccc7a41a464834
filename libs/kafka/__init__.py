"""Kafka: the only place that makes clients; consumer, publisher and topics."""
