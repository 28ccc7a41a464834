"""Fixtures of all tests: the real servers of `deploy.local`, started when a test first asks."""

from deploy.local.fixtures import bucket, database, seaweedfs, servers

__all__ = ["bucket", "database", "seaweedfs", "servers"]
