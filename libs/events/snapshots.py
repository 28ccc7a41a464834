"""Events of `backcast.snapshots`: sessions and the recovery points they become."""

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from msgspec import Meta

from libs.events.fields import Code, Consistency, Count, Digest, Message, Name, ObjectKey, Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRequested:
    """Emitted when a session was opened.

    Stream key: group. Ordering: first event of its session. A duplicate is harmless.
    """

    session: UUID
    group: UUID
    #: Session of the base snapshot, which is pinned until the session ends.
    base: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedVolume:
    """One volume of a sealed snapshot."""

    volume: UUID
    name: Name
    #: Root of its block map; None = every chunk is zero.
    root: Digest | None
    root_level: Annotated[int, Meta(ge=0, le=16)]
    size_bytes: Count
    read_bytes: Count
    changed_bytes: Count
    sent_bytes: Count
    stored_bytes: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotSealed:
    """Emitted when a snapshot became a recovery point: this is the acknowledgement.

    Stream key: group. Ordering: sequences of a group ascend; last event of its session, except for
    what happens to the snapshot later. A duplicate is harmless.
    """

    session: UUID
    group: UUID
    #: Number of the recovery point in its group, from 1.
    sequence: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    base: UUID | None
    volumes: tuple[SealedVolume, ...]
    manifest_key: ObjectKey
    #: The weakest of its volumes.
    consistency: Consistency
    seconds: Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRejected:
    """Emitted when a session ended without a snapshot.

    Stream key: group. Ordering: last event of its session. A duplicate is harmless.
    """

    session: UUID
    group: UUID
    code: Code
    message: Message
