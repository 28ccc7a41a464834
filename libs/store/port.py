"""The object store as Backcast sees it: a few operations with strict promises.

What we need from a store, in short:

1. A successful PUT is durable, and it is visible whole or not at all.
2. A PUT, GET, HEAD or listing that begins after a successful PUT or DELETE sees its effect.
3. PUT compares what it received with a checksum that we sent.
4. A ranged GET gives exactly the bytes that were asked for.
5. A listing by prefix and start-after shows every object that exists during the whole listing,
   each once and in one order, and says whether more follows and how to go on.
6. DELETE of an object that does not exist succeeds.
7. GET of an object that does not exist answers NoSuchKey, which no other failure does.

We do not need conditional PUT, renames, appends, multipart uploads, versions, locks, clocks that
agree, or that one listing page equals another. `libs.store.probe` checks 1 to 7 as far as they can
be seen from outside.

Synchronous, because callers are byte threads. Implementations are thread-safe and make one attempt
per call; `libs.store.retrying.RetryingStore` is the only place that tries again.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from libs.errors import BadInputError, UnavailableError
from libs.ranges import ByteRange

#: What may be put. It is borrowed until `put` returns: the caller must not change it meanwhile.
Body = bytes | bytearray | memoryview

#: No object is put or read whole above this; a length that a server states is checked before
#: allocation. Packs are 32 MiB, so this is a guard, not a target.
OBJECT_SIZE_BYTES_MAX = 256 << 20

#: S3 allows 1,024 bytes; half of it leaves room for a prefix that an operator may add.
KEY_SIZE_BYTES_MAX = 512

# Letters, digits, '.', '_' and '-' mean the same to every server, URL and file system, so no
# adapter needs quoting. A segment begins with a letter or digit, which leaves no '..', no empty
# segment and no hidden file.
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_PREFIX = re.compile(rf"(?:{_KEY.pattern}/?)?")


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """What a store says about one object."""

    key: str
    size_bytes: int
    #: UTC, by the store's clock; for people, and as a hint. No correctness rests on it.
    modified_at: datetime


class ChecksumRefusedError(UnavailableError):
    """The store received other bytes than were sent; sending them again is the remedy."""


class ObjectStore(Protocol):
    """Immutable objects under keys.

    Keys: relative paths of letters, digits, '.', '_' and '-' (`check_key`). No key is the folder of
    another (`a` and `a/b` never both exist). A key is written with one content only, ever; writing
    the same bytes to it again is allowed and changes nothing.

    Every method may raise:
        BadInputError: malformed key, prefix or range.
        ForbiddenError: the credentials do not allow it.
        UnavailableError: no answer, a server error, or a body that was cut off. The operation may
            or may not have happened; the same call may be made again.
        ConfigurationError: the store refuses in a way that trying again cannot mend (no such
            bucket).
    """

    def put(self, key: str, body: Body) -> None:
        """Write an object. It is visible whole or not at all, and durable when this returns.

        The store has compared the bytes that it received with a checksum computed here.

        Raises:
            ChecksumRefusedError: they differed, and nothing was written.
            OutOfSpaceError: the store or its quota is full.
        """
        ...

    def get(self, key: str) -> bytes:
        """The whole object.

        Raises:
            NotFoundError: no such object.
            DamagedDataError: the object is larger than `OBJECT_SIZE_BYTES_MAX`.
        """
        ...

    def get_range(self, key: str, wanted: ByteRange) -> bytes:
        """Exactly the bytes of ``wanted``, which must not be empty; never fewer.

        Raises:
            NotFoundError: no such object.
            DamagedDataError: the object ends before the range does.
        """
        ...

    def get_into(self, key: str, wanted: ByteRange, buffer: memoryview) -> None:
        """Like `get_range`, but fill ``buffer``, writable and exactly as long as ``wanted``.

        Reused buffers cost half the CPU of new memory or less (docs/adr/0003). After an error the
        content of the buffer is undefined.
        """
        ...

    def stat(self, key: str) -> ObjectStat | None:
        """Size and time of an object, or None if the store says that it has no such object.

        None is said of this key: a bucket that is gone, a proxy's "not found" page and a medium
        that is not mounted are errors. One None is one answer: before anything is deleted or given
        up because of it, ask again later (`services.catalog.recovery.absence`).
        """
        ...

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectStat]:
        """Objects whose key begins with ``prefix``, after ``start_after``: a key or its beginning.

        Each once, fetched page by page while the caller iterates. An object that exists during the
        whole listing is in it; one that is put or deleted meanwhile may or may not be. An answer
        that shows that something was left out or repeated is an `UnavailableError`, never the end
        (`libs.store.listing`). One that does not show it cannot be told from a whole listing: what
        is not listed is asked for by `stat` before it is taken for gone.

        Keys of one folder ascend by byte value. The order of folders is the store's own, but always
        the same (S3 compares whole keys, SeaweedFS goes folder by folder), so a listing that starts
        after the last key of another one continues it.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove an object; removing one that does not exist succeeds."""
        ...


class Presigner(Protocol):
    """A store that can hand out the right to read one object."""

    def presign_get(self, key: str, expires_seconds: int) -> str:
        """A URL that reads ``key`` until it expires. The URL is a secret: whoever has it may read.

        Raises:
            BadInputError: malformed key, or an expiry that is not 1 second to 7 days.
        """
        ...


class Leftovers(Protocol):
    """A store that keeps something of puts that never ended."""

    def delete_leftovers(self, older_than: datetime) -> int:
        """Delete what puts left that began before ``older_than``; how many there were.

        A put that still goes on fails with `UnavailableError`: choose a time long gone.
        """
        ...


def check_key(key: str) -> str:
    """Return ``key`` if it is a valid object key.

    Raises:
        BadInputError: it is not.
    """
    if len(key) > KEY_SIZE_BYTES_MAX or not _KEY.fullmatch(key):
        raise BadInputError(
            f"object key {key[:80]!r}: expected up to {KEY_SIZE_BYTES_MAX} characters, segments of "
            f"A-Z a-z 0-9 . _ - that begin with a letter or digit, joined by '/'"
        )
    return key


def check_prefix(prefix: str) -> str:
    """Return ``prefix`` if some valid key can begin with it; it may be empty or end with '/'.

    Raises:
        BadInputError: it is not.
    """
    if len(prefix) > KEY_SIZE_BYTES_MAX or not _PREFIX.fullmatch(prefix):
        raise BadInputError(f"key prefix {prefix[:80]!r}: expected the beginning of an object key")
    return prefix


def check_body(key: str, body: Body) -> memoryview:
    """A view of the body's bytes.

    Raises:
        BadInputError: the body is larger than `OBJECT_SIZE_BYTES_MAX`.
    """
    view = memoryview(body).cast("B")
    if view.nbytes > OBJECT_SIZE_BYTES_MAX:
        raise BadInputError(
            f"object {key}: {view.nbytes} bytes, expected at most {OBJECT_SIZE_BYTES_MAX}"
        )
    return view


def check_range(key: str, wanted: ByteRange, buffer_size_bytes: int | None = None) -> None:
    """Refuse a range that is empty, too large, or not as long as the buffer it is read into.

    Raises:
        BadInputError: it is one of these.
    """
    if not 0 < wanted.length <= OBJECT_SIZE_BYTES_MAX:
        raise BadInputError(
            f"object {key}: range of {wanted.length} bytes, expected 1 to {OBJECT_SIZE_BYTES_MAX}"
        )
    if buffer_size_bytes is not None and buffer_size_bytes != wanted.length:
        raise BadInputError(
            f"object {key}: buffer of {buffer_size_bytes} bytes for a range of {wanted.length}"
        )
