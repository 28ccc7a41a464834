"""Buckets themselves, by the minio SDK: making them and how they are set. Never objects.

Only set-up imports this: the SDK costs 0.4 s of CPU at each start of a process.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error

from libs.errors import (
    BackcastError,
    ConfigurationError,
    ForbiddenError,
    UnavailableError,
)
from libs.rest.connections import Origin
from libs.runtime.retries import tried_again
from libs.store.s3 import S3Bucket

_TIMEOUT = urllib3.Timeout(connect=5.0, read=60.0)


@dataclass(frozen=True, slots=True)
class BucketState:
    """How a bucket is set up."""

    #: Whether deleted objects stay as versions (and go on using space).
    versioning: bool
    #: Whether the bucket was made with object lock.
    object_lock: bool


@tried_again()
def make_bucket(bucket: S3Bucket) -> None:
    """Make a bucket unless it exists; harmless when several processes do it at once.

    Tried again for a minute while the server does not answer.

    Raises:
        ConfigurationError: the name is not one for a bucket, or somebody else has it.
        ForbiddenError: the credentials do not allow it.
        UnavailableError: the server does not answer.
    """
    with _translated(bucket), _sdk(bucket) as client:
        if client.bucket_exists(bucket.bucket):
            return
        try:
            client.make_bucket(bucket.bucket, bucket.region)
        except S3Error as error:
            if error.code != "BucketAlreadyOwnedByYou":
                raise


def bucket_state(bucket: S3Bucket) -> BucketState:
    """How a bucket is set up; what a server does not implement counts as off.

    Raises:
        ConfigurationError: there is no such bucket.
        ForbiddenError: the credentials do not allow to ask.
        UnavailableError: the server does not answer.
    """
    with _translated(bucket), _sdk(bucket) as client:
        if not client.bucket_exists(bucket.bucket):
            raise ConfigurationError(
                f"bucket {bucket.bucket} at {bucket.endpoint}: does not exist; create it"
            )
        return BucketState(
            versioning=_has_versioning(client, bucket.bucket),
            object_lock=_has_object_lock(client, bucket.bucket),
        )


def _has_versioning(client: Minio, name: str) -> bool:
    try:
        return client.get_bucket_versioning(name).status == "Enabled"
    except S3Error as error:
        if error.code == "NotImplemented":
            return False
        raise


def _has_object_lock(client: Minio, name: str) -> bool:
    try:
        client.get_object_lock_config(name)
    except S3Error as error:
        if error.code in ("ObjectLockConfigurationNotFoundError", "NotImplemented"):
            return False
        raise
    return True


@contextmanager
def _sdk(bucket: S3Bucket) -> Iterator[Minio]:
    origin = Origin.parse(bucket.endpoint)
    # One attempt, as everywhere in the store; the SDK's own pool would make five.
    http = urllib3.PoolManager(
        timeout=_TIMEOUT,
        retries=False,
        ca_certs=None if bucket.ca_file is None else str(bucket.ca_file),
    )
    try:
        yield Minio(
            origin.authority,
            bucket.access_key,
            bucket.secret_key,
            secure=origin.scheme == "https",
            region=bucket.region,
            http_client=http,
        )
    finally:
        http.clear()


@contextmanager
def _translated(bucket: S3Bucket) -> Iterator[None]:
    """Turn the SDK's errors into Backcast's."""
    what = f"bucket {bucket.bucket} at {bucket.endpoint}"
    try:
        yield
    except S3Error as error:
        raise _refusal(error)(
            f"{what}: the store answered {error.code}: {error.message}"
        ) from error
    except (MinioException, urllib3.exceptions.HTTPError) as error:
        raise UnavailableError(f"{what}: no usable answer: {type(error).__name__}") from error
    except ValueError as error:  # the SDK checks names before it sends anything
        raise ConfigurationError(f"{what}: {error}") from error


def _refusal(error: S3Error) -> type[BackcastError]:
    if error.response.status in (401, 403):
        return ForbiddenError
    return UnavailableError if error.response.status >= 500 else ConfigurationError
