"""Whether a bucket answers this process now: what `/readyz` asks."""

from collections.abc import Callable

from libs.rest.connections import Timeouts
from libs.runtime.groups import S3Settings
from libs.store.layout import STORES_PREFIX
from libs.store.opening import bucket_of
from libs.store.s3 import S3Store

#: Less than `libs.runtime.health.READY_SECONDS_MAX`, so that the reason is known in time.
_TIMEOUTS = Timeouts(connect_seconds=1.5, read_seconds=2.5, total_seconds=2.5)


def bucket_probe(settings: S3Settings) -> Callable[[], None]:
    """Lists the one object that says which store the bucket is; one attempt, and no retries.

    It raises what `ObjectStore.list` does.
    """
    store = S3Store(bucket_of(settings), timeouts=_TIMEOUTS)

    def ask() -> None:
        for _ in store.list(STORES_PREFIX):
            return

    return ask
