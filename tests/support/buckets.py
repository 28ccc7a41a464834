"""Buckets of the servers that tests start."""

from deploy.local.servers.s3 import S3Server
from libs.store.s3 import S3Bucket


def bucket_at(server: S3Server, name: str) -> S3Bucket:
    """A bucket of a server, with the server's own credentials; it need not exist yet."""
    return S3Bucket(
        endpoint=server.endpoint,
        bucket=name,
        access_key=server.access_key,
        secret_key=server.secret_key,
    )
