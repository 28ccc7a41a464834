"""Real servers and our services as local processes, without Docker and without root.

Purpose: one command on a workstation, and the fixtures of the tests, start real PostgreSQL, Kafka
    and an S3 server, then our services.
Consumes: wheels (PostgreSQL, SeaweedFS, Go), Maven artifacts (Kafka), Go modules (MinIO), Java.
Produces: processes that listen on 127.0.0.1 only, with random credentials.
Owns: BACKCAST_HOME (data, secrets, logs) and the user's cache folder (built tools).
Never does: serve other machines, or touch a process that it did not start.
"""
