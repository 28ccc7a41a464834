"""Events of `backcast.block-changes`: what agents found changed on the volumes they read.

Agents publish them directly, authenticated with the token of their capture (`mac`). They are
claims: a consumer checks tenant, volume and node against the session's row, ids against the bytes.
"""

from dataclasses import dataclass
from typing import Annotated
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
    #: True: every chunk that is not zero is listed. False: only differences from the base.
    complete: bool
    volume_size_bytes: Count
    chunk_size_bytes: _ChunkSize


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
        count_chunks(self.zero_runs)
        chunk_count = count_chunks(self.runs)
        if self.tags and (len(self.tags) != chunk_count or not self.tags.strip(b"\0")):
            raise BadInputError(
                f"batch {self.batch} of capture {self.capture}: expected {chunk_count} domain tags "
                f"that are not all 0, or none, got {len(self.tags)}"
            )
        expected = DIGEST_SIZE_BYTES * chunk_count
        if len(self.ids) != expected:
            raise BadInputError(
                f"batch {self.batch} of capture {self.capture}: expected {expected} bytes of ids "
                f"for the chunks of its runs, got {len(self.ids)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureCompleted:
    """Emitted when an agent has published every batch of a capture.

    Stream key: volume. Ordering: after every batch. A duplicate is harmless. It vouches for the
    set: a consumer that has other batches than these must not seal.
    """

    session: UUID
    capture: UUID
    volume: UUID
    #: Number of `ExtentsChanged` of the capture.
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
    """Emitted when what an agent knows about changes of a volume can no longer be trusted.

    Stream key: volume. Ordering: none; the next capture of the volume compares everything. A
    duplicate is harmless.
    """

    volume: UUID
    #: The session and capture in which it was noticed, if it was in one.
    session: UUID | None
    capture: UUID | None
    reason: Message
