"""Opens the S3 store that a service is configured for, after looking at what it really does."""

from collections.abc import Callable

from libs.rest.connections import Timeouts
from libs.runtime.groups import S3Settings
from libs.store.layout import STORES_PREFIX
from libs.store.probe import probe_s3
from libs.store.retrying import RetryingStore
from libs.store.s3 import S3Bucket, S3Store

#: Less than `libs.runtime.health.READY_SECONDS_MAX`, so that the reason is known in time.
_READINESS_TIMEOUTS = Timeouts(connect_seconds=1.5, read_seconds=2.5, total_seconds=2.5)


def bucket_of(settings: S3Settings) -> S3Bucket:
    """The bucket that the settings name."""
    return S3Bucket(
        endpoint=settings.endpoint,
        bucket=settings.bucket,
        access_key=settings.access_key.reveal(),
        secret_key=settings.secret_key.reveal(),
        region=settings.region,
        ca_file=settings.ca_file,
    )


def open_store(settings: S3Settings) -> RetryingStore:
    """The configured store, probed, with retries.

    Raises:
        ConfigurationError: the store does not do what Backcast needs.
        UnavailableError: the store does not answer.
    """
    bucket = bucket_of(settings)
    abilities = probe_s3(bucket)
    return RetryingStore(S3Store(bucket, put_checksum=abilities.put_checksum))


def bucket_probe(settings: S3Settings) -> Callable[[], None]:
    """Asks whether the bucket answers this process now, as `/readyz` does.

    It lists the one object that says which store the bucket is: one attempt, and no retries. It
    raises what `ObjectStore.list` does.
    """
    store = S3Store(bucket_of(settings), timeouts=_READINESS_TIMEOUTS)

    def ask() -> None:
        for _ in store.list(STORES_PREFIX):
            return

    return ask
