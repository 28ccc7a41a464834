"""Opens the stores that a service is configured for."""

import logging
from collections.abc import Callable
from uuid import UUID

from libs.copies.stores import PRIMARY, SECOND, STORE_NAMES, Stores
from libs.errors import ConfigurationError, UnavailableError
from libs.runtime.groups import S3Settings, SecondS3Settings
from libs.store.opening import bucket_of, bucket_probe
from libs.store.probe import probe_s3
from libs.store.retrying import RetryingStore
from libs.store.s3 import S3Store

log = logging.getLogger(__name__)


def store_probes(primary: S3Settings, second: SecondS3Settings) -> dict[str, Callable[[], None]]:
    """What `/readyz` asks of each configured store, by the name that it has there."""
    settings = {PRIMARY: primary} | ({SECOND: second.store} if second.store else {})
    return {
        f"store {STORE_NAMES[store_no]}": bucket_probe(one) for store_no, one in settings.items()
    }


def open_stores(
    primary: S3Settings,
    second: SecondS3Settings,
    report: Callable[[UUID, int, str], object] | None = None,
) -> Stores:
    """The configured stores, probed, with retries.

    Where there are two, one that does not answer keeps no service from starting: what it has is
    read from the other one.

    Args:
        primary: where everything is written first.
        second: gets a copy of everything, if there is one.
        report: see `Stores`.

    Raises:
        ConfigurationError: a store does not do what Backcast needs, or both are the same bucket.
        UnavailableError: no store answers.
    """
    settings = {PRIMARY: primary}
    if second.store is not None:
        settings[SECOND] = second.store
        if (primary.endpoint, primary.bucket) == (second.endpoint, second.bucket):
            raise ConfigurationError(
                f"bucket {primary.bucket} at {primary.endpoint} is configured as both stores; a "
                f"copy in the same bucket protects from nothing"
            )
    opened: dict[int, S3Store] = {}
    silent: dict[int, UnavailableError] = {}
    for store_no, one in settings.items():
        bucket = bucket_of(one)
        try:
            abilities = probe_s3(bucket)
            opened[store_no] = S3Store(bucket, put_checksum=abilities.put_checksum)
        except UnavailableError as err:
            log.warning(
                "store does not answer", extra={"store": STORE_NAMES[store_no], "detail": str(err)}
            )
            silent[store_no] = err
            opened[store_no] = S3Store(bucket)
    if len(silent) == len(settings):
        raise silent[PRIMARY]
    stores = {store_no: RetryingStore(store) for store_no, store in opened.items()}
    return Stores(stores[PRIMARY], stores.get(SECOND), eager=opened, report=report)
