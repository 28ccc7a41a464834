"""catalog: owns the schema and the loops that keep the catalog honest.

Purpose:   set up schema, roles, topics, bucket; relay the event log to Kafka; end what is overdue.
Consumes:  the catalog's event log.
Produces:  every relayed topic, in order, at least once.
Owns:      the schema; the positions up to which topics are published.
Never does: decide about a snapshot, or read a volume's bytes.
"""
