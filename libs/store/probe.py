"""Finding out at start-up what a store really does, as S3 servers differ from what they promise.

SeaweedFS 4.48, for example, accepts a body whose signed SHA-256 is wrong, but refuses a wrong
CRC-32C. The probe writes a few small objects under a folder of its own and removes them.
"""

import contextlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from libs.errors import (
    BackcastError,
    ConfigurationError,
    ConflictError,
    DamagedDataError,
    NotFoundError,
    UnavailableError,
)
from libs.ranges import ByteRange
from libs.runtime.retries import tried_again
from libs.store.checksums import PutChecksum, integrity_headers
from libs.store.port import ChecksumRefusedError, ObjectStore
from libs.store.s3 import S3Bucket, S3Store

#: Above what servers keep inside their metadata (MinIO: 128 KiB), so that the real path is tried.
_BODY_SIZE_BYTES = 192 << 10


@dataclass(frozen=True, slots=True)
class StoreAbilities:
    """What the probe saw a bucket do."""

    #: The cheapest checksum of a PUT that the server verifies.
    put_checksum: PutChecksum
    #: Whether a second PUT with If-None-Match was refused. For information: nothing may rest on it.
    conditional_put: bool


@tried_again()
def probe_s3(bucket: S3Bucket, *, new_id: Callable[[], uuid.UUID] = uuid.uuid4) -> StoreAbilities:
    """Try what Backcast needs of a bucket; again for a minute while it does not answer.

    Args:
        bucket: what to try.
        new_id: names the probe's folder; several processes may probe at once.

    Raises:
        ConfigurationError: no such bucket, no checksum is verified, or the semantics differ from
            what `ObjectStore` promises; the message says in what.
        ForbiddenError: the credentials do not allow to read, write, list and delete.
        UnavailableError: the server does not answer.
    """
    folder = f"probe/{new_id().hex}"
    store = S3Store(bucket)
    try:
        _require_bucket(store, bucket)
        checksum = _cheapest_verified_checksum(store, folder)
        if checksum is None:
            names = ", ".join(kind.value for kind in PutChecksum)
            raise ConfigurationError(
                f"bucket {bucket.bucket} at {bucket.endpoint}: the server stored objects whose "
                f"checksum was wrong, for every kind ({names}); use one that verifies"
            )
        conditional_put = _has_conditional_put(store, folder, checksum)
        with contextlib.closing(S3Store(bucket, put_checksum=checksum, page_count=2)) as chosen:
            probe_semantics(chosen, f"{folder}/semantics")
    finally:
        _remove(store, f"{folder}/")
        store.close()
    return StoreAbilities(checksum, conditional_put)


def probe_semantics(store: ObjectStore, folder: str) -> None:
    """Check the promises of `ObjectStore` that can be seen from outside; leaves no object behind.

    Args:
        store: any store; one attempt per call is enough, `libs.store.retrying` may wrap it.
        folder: key prefix without '/' at its end, used by nobody else.

    Raises:
        ConfigurationError: a promise is not kept.
        BackcastError: the store refuses or does not answer.
    """
    body = bytes(range(256)) * (_BODY_SIZE_BYTES // 256)
    keys = [f"{folder}/{name}" for name in ("0", "1", "a", "b-c", "b.d")]
    try:
        for key in reversed(keys):
            store.put(key, body)
        store.put(keys[0], body)
        _expect(store.get(keys[0]) == body, "a get gives back what was put")
        wanted = ByteRange(1_000, 70_000)
        _expect(store.get_range(keys[0], wanted) == body[1_000:70_000], "a range is exact")
        _expect(
            _raises(
                DamagedDataError, lambda: store.get_range(keys[0], ByteRange(1, len(body) + 1))
            ),
            "a range beyond the end is recognised",
        )
        stat = store.stat(keys[0])
        _expect(stat is not None and stat.size_bytes == len(body), "stat tells the size")
        listed = [entry.key for entry in store.list(f"{folder}/")]
        _expect(listed == keys, "a listing is complete and in order")
        listed = [entry.key for entry in store.list(f"{folder}/", start_after=keys[1])]
        _expect(listed == keys[2:], "a listing goes on after a key")
        for _ in range(2):
            store.delete(keys[0])
        _expect(store.stat(keys[0]) is None, "a deleted object is gone")
        _expect(_raises(NotFoundError, lambda: store.get(keys[0])), "a missing object is told")
    finally:
        _remove(store, f"{folder}/")


def _require_bucket(store: S3Store, bucket: S3Bucket) -> None:
    """Say first that there is no such bucket: a PUT would blame the checksum."""
    try:
        next(store.list("probe/"), None)
    except ConfigurationError as err:
        raise ConfigurationError(
            f"bucket {bucket.bucket} at {bucket.endpoint}: create it, or correct its name or "
            f"region: {err}"
        ) from err


def _cheapest_verified_checksum(store: S3Store, folder: str) -> PutChecksum | None:
    """The first kind that lets right bodies in and keeps wrong ones out."""
    body = memoryview(bytes(_BODY_SIZE_BYTES))
    other = memoryview(b"\1" + bytes(_BODY_SIZE_BYTES - 1))
    for checksum in PutChecksum:
        key = f"{folder}/{checksum.value}"
        try:
            store.put_with_headers(f"{key}-right", body, integrity_headers(checksum, body))
        except ConfigurationError:  # a server that does not know the header may refuse it
            continue
        # A refusal with another code is as good; no answer at all shows nothing and is passed on.
        with contextlib.suppress(ChecksumRefusedError, ConfigurationError):
            store.put_with_headers(f"{key}-wrong", body, integrity_headers(checksum, other))
        # What counts is not the answer, but whether the damaged object is there.
        if store.stat(f"{key}-wrong") is None:
            return checksum
    return None


def _has_conditional_put(store: S3Store, folder: str, checksum: PutChecksum) -> bool:
    body = memoryview(b"once")
    headers = {"If-None-Match": "*", **integrity_headers(checksum, body)}
    key = f"{folder}/conditional"
    try:
        store.put_with_headers(key, body, headers)
    except ConfigurationError:  # the header is not implemented
        return False
    return _raises(ConflictError, lambda: store.put_with_headers(key, body, headers))


def _remove(store: ObjectStore, prefix: str) -> None:
    for entry in list(store.list(prefix)):
        store.delete(entry.key)


def _raises(kind: type[BackcastError], call: Callable[[], object]) -> bool:
    """Whether ``call`` raises ``kind``; a store that does not answer has shown nothing."""
    try:
        call()
    except kind:
        return True
    except UnavailableError:
        raise
    except BackcastError:
        return False
    return False


def _expect(kept: bool, promise: str) -> None:
    if not kept:
        raise ConfigurationError(f"object store: expected that {promise}; use another server")
