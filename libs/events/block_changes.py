"""Events of `backcast.block-changes`: what agents found changed on the volumes they read.

Agents publish them directly, authenticated with the token of their capture (`mac`). They are
claims: a consumer checks tenant, volume and node against the session's row, ids against the bytes.
"""

from dataclasses import dataclass
from typing import Annotated, Literal
from uuid import UUID

from msgspec import Meta

from libs.errors import BadInputError
from libs.events.fields import (
    DIGEST_SIZE_BYTES,
    Code,
    Consistency,
    Count,
    Digest,
    Message,
    Name,
    Seconds,
)
from libs.ranges import count_chunks

#: Smallest and largest chunk of a volume; the product writes 64 KiB.
_ChunkSize = Annotated[int, Meta(ge=512, le=8 * 1024 * 1024)]


Tracking = Literal["none", "exact", "candidates"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureStarted:
    """Emitted when an agent begins to read a volume for a session.

    Stream key: volume. Ordering: before every other event of the capture. A duplicate is harmless:
    the capture is known by its id.
    """

    session: UUID
    capture: UUID
    tenant: Name
    group: UUID
    volume: UUID
    node: Name
    #: Session of the snapshot that the changes are relative to; None = everything is listed.
    base: UUID | None
    #: The agent process; a capture never continues in another one, as its frozen view is gone.
    boot: UUID
    #: True: every chunk that is not zero is listed, and what is not listed is zero. False: only
    #: differences from the base are, and what is not listed is as it was there.
    complete: bool
    volume_size_bytes: Count
    chunk_size_bytes: _ChunkSize
    #: How the differences are known: ``none`` = not, everything is compared; ``exact`` = each chunk
    #: was compared with what it was; ``candidates`` = somebody said which chunks may differ.
    tracking: Tracking


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtentsChanged:
    """Emitted when an agent has hashed a span of changed chunks, or found chunks that became zero.

    Stream key: volume. Ordering: batches of a capture are numbered from 0 without gaps and arrive
    in that order; the chunks of one batch ascend, those of a later batch may lie anywhere from the
    `settled_below` of the batches before it. A duplicate is recognised by (capture, batch).
    """

    session: UUID
    capture: UUID
    volume: UUID
    batch: Count
    #: Chunks with data, ascending, as `libs.ranges.pack_runs` writes them.
    runs: bytes
    #: Ids of these chunks, 32 bytes each, in the order of `runs`.
    ids: bytes
    #: Chunks that are all zero now, packed in the same way; disjoint from `runs`.
    zero_runs: bytes
    #: No later batch of the capture names a chunk below this index.
    settled_below: Count
    #: Domain tag of each chunk, one byte each, in the order of `runs`: in which domain of the
    #: session's list the id names the chunk. Empty: all are of the tenant's own domain.
    tags: bytes = b""

    def __post_init__(self) -> None:
        """Check that the columns belong together.

        Raises:
            BadInputError: not one id per chunk, tags that are neither left out nor one per chunk,
                or a column that is not made of whole runs.
        """
        _check_columns(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnchangedSampled:
    """Emitted when an agent has hashed a random sample of what its tracker believes unchanged.

    A consumer compares the ids with the base's map. One that differs was overlooked: the tracking
    is lost, and the session must not be sealed.

    Stream key: volume. Ordering: numbered among the `ExtentsChanged` of the capture, which count
    in `CaptureCompleted` together. A duplicate is recognised by (capture, batch).
    """

    session: UUID
    capture: UUID
    volume: UUID
    batch: Count
    #: Sampled chunks with data, ascending, as `libs.ranges.pack_runs` writes them.
    runs: bytes
    #: Their ids in the tenant's own domain, 32 bytes each, in the order of `runs`.
    ids: bytes
    #: Sampled chunks that are all zero, packed in the same way; disjoint from `runs`.
    zero_runs: bytes

    def __post_init__(self) -> None:
        """Check that the columns belong together, as those of `ExtentsChanged`."""
        _check_columns(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureCompleted:
    """Emitted when an agent has published every batch of a capture.

    Stream key: volume. Ordering: after every batch. A duplicate is harmless. It vouches for the
    set: a consumer that has other batches than these must not seal.
    """

    session: UUID
    capture: UUID
    volume: UUID
    #: Number of `ExtentsChanged` and `UnchangedSampled` of the capture.
    batches: Count
    #: `BatchesDigest` over their encoded values.
    batches_digest: Digest
    read_bytes: Count
    changed_bytes: Count
    consistency: Consistency
    seconds: Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureAborted:
    """Emitted when an agent gives up a capture; its session can only be rejected.

    Stream key: volume. Ordering: nothing of the capture follows. A duplicate is harmless.
    """

    session: UUID
    capture: UUID
    volume: UUID
    code: Code
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingLost:
    """Emitted when an agent does not know what changed on a volume since the base it was named.

    Stream key: volume. Ordering: within a capture, right after its `CaptureStarted`, which says
    that it is complete: everything is compared, and what is not announced is zero. Outside of one,
    the next capture of the volume is such a one. A duplicate is harmless.
    """

    volume: UUID
    #: The session and capture in which it was noticed, if it was in one.
    session: UUID | None
    capture: UUID | None
    reason: Message


#: What is numbered within a capture and counts in `CaptureCompleted`.
Batch = ExtentsChanged | UnchangedSampled


def _check_columns(event: Batch) -> None:
    count_chunks(event.zero_runs)
    chunk_count = count_chunks(event.runs)
    tags = event.tags if isinstance(event, ExtentsChanged) else b""
    if tags and (len(tags) != chunk_count or not tags.strip(b"\0")):
        raise BadInputError(
            f"batch {event.batch} of capture {event.capture}: expected {chunk_count} domain tags "
            f"that are not all 0, or none, got {len(tags)}"
        )
    expected = DIGEST_SIZE_BYTES * chunk_count
    if len(event.ids) != expected:
        raise BadInputError(
            f"batch {event.batch} of capture {event.capture}: expected {expected} bytes of ids "
            f"for the chunks of its runs, got {len(event.ids)}"
        )
