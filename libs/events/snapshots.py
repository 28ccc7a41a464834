"""Events of `backcast.snapshots`: sessions, the recovery points they become, and their volumes."""

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from msgspec import Meta

from libs.events.fields import (
    DAMAGED_EXTENTS_MAX,
    Code,
    Consistency,
    Count,
    Digest,
    HoldMeans,
    Message,
    Name,
    ObjectKey,
    Seconds,
    VerificationLevel,
)


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
class BarrierNode:
    """What one node confirmed of a barrier. Times are microseconds since 1970 by its own clock."""

    node: Name
    means: HoldMeans
    held_at_us: Count
    cut_at_us: Count
    released_at_us: Count
    #: Whether its hold was unbroken when the release reached it.
    unbroken: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BarrierReached:
    """Emitted when all nodes of a group have cut at one barrier, and the cut counts.

    Stream key: group. Ordering: after its SnapshotRequested, before the end of its session. A
    session without a barrier has none. A duplicate is harmless.
    """

    session: UUID
    group: UUID
    #: The attempt at the barrier whose cut counts, from 1.
    attempt: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    nodes: tuple[BarrierNode, ...]


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
class SnapshotReplicated:
    """Emitted when another store has all of a snapshot: its manifest and a copy of each pack.

    Stream key: group. Ordering: after its SnapshotSealed; again when a copy that was lost was made
    anew. A duplicate is harmless.
    """

    session: UUID
    group: UUID
    sequence: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    #: Stores that have all of it now.
    copies: Annotated[int, Meta(ge=2, le=100)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRejected:
    """Emitted when a session ended without a snapshot.

    Stream key: group. Ordering: last event of its session. A duplicate is harmless.
    """

    session: UUID
    group: UUID
    code: Code
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotVerified:
    """Emitted when a verification found a snapshot as it must be.

    Stream key: group. Ordering: after its SnapshotSealed; the last verdict holds. A duplicate is
    harmless.
    """

    session: UUID
    group: UUID
    sequence: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    level: VerificationLevel
    #: Packs whose objects were checked.
    packs: Count
    #: Bytes fetched from the store.
    fetched_bytes: Count
    seconds: Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedExtent:
    """A range of a volume that cannot be read."""

    volume: UUID
    offset_bytes: Count
    length_bytes: Count
    #: Pack that it was stored in; None if the catalog does not know any.
    generation: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotDamaged:
    """Emitted when a live snapshot was found to contain what cannot be read any more.

    Stream key: group. Ordering: after its SnapshotSealed; the last verdict holds. A duplicate is
    harmless.
    """

    session: UUID
    group: UUID
    sequence: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    #: All damaged bytes of its volumes; 0 if only its manifest is damaged.
    damaged_bytes: Count
    #: All damaged extents, also those that are not listed.
    extent_count: Count
    #: The first of them, by volume and offset.
    extents: Annotated[tuple[DamagedExtent, ...], Meta(max_length=DAMAGED_EXTENTS_MAX)]
    #: What is wrong with its manifest; None if nothing is known to be.
    manifest: Message | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRecovered:
    """Emitted when a catalog that had forgotten a recovery point took it back from the store.

    Stream key: group. Ordering: sequences of a group ascend. A duplicate is harmless.
    """

    session: UUID
    group: UUID
    sequence: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    manifest_key: ObjectKey
    #: Whether a checkpoint or the log proves that it was acknowledged. Else it is complete in the
    #: store, and may be one that was rejected in its last moment.
    proved: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotExpired:
    """Emitted when a recovery point was given up: it cannot be restored any more.

    Stream key: group. Ordering: last event of its session. A duplicate is harmless.
    """

    session: UUID
    group: UUID
    sequence: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    #: ``retention`` or the name of whoever asked.
    by: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldPlaced:
    """Emitted when somebody forbade a snapshot to expire, or gave another reason for it.

    Stream key: group. Ordering: those of an owner in the order of the log. A duplicate is harmless.
    """

    session: UUID
    group: UUID
    owner: Name
    reason: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldReleased:
    """Emitted when the owner of a hold gave it up; holds of other owners stand.

    Stream key: group. Ordering: after its HoldPlaced. A duplicate is harmless.
    """

    session: UUID
    group: UUID
    owner: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionChanged:
    """Emitted when a group got another rule of what retention keeps.

    Stream key: group. Ordering: the last one holds. A duplicate is harmless.
    """

    group: UUID
    #: Newest recovery points that stay whatever their age; None: nothing expires by itself.
    keep_last: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None
    #: Age in seconds up to which older ones stay as well.
    keep_for_seconds: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeRenamed:
    """Emitted when a volume got another name; its id, its number and its history stay.

    Stream key: group. Ordering: the last name holds. A duplicate is harmless.
    """

    volume: UUID
    group: UUID
    before: Name
    name: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRenamed:
    """Emitted when a group got another name; its id and its history stay.

    Stream key: group. Ordering: the last name holds. A duplicate is harmless.
    """

    group: UUID
    before: Name
    name: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeMoved:
    """Emitted when a volume is read from another place from its next snapshot on.

    Stream key: group. Ordering: the last place holds. A duplicate is harmless.
    """

    volume: UUID
    group: UUID
    name: Name
    node: Name
    path: Message
    #: Mount point of the file system that is frozen while it is cut, or None.
    freeze: Message | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeRemoved:
    """Emitted when a volume is protected no more; its recovery points stay until they expire.

    Stream key: group. Ordering: the last of VolumeRemoved and VolumeReturned holds. A duplicate is
    harmless.
    """

    volume: UUID
    group: UUID
    name: Name
    #: Who removed it.
    by: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeReturned:
    """Emitted when a volume that was removed is protected again, with its history.

    Stream key: group. Ordering: after its VolumeRemoved. A duplicate is harmless.
    """

    volume: UUID
    group: UUID
    name: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPaused:
    """Emitted when somebody paused a group: it takes no snapshots, and none expires by retention.

    Stream key: group. Ordering: the last of GroupPaused and GroupResumed holds. A duplicate is
    harmless.
    """

    group: UUID
    by: Name
    reason: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupResumed:
    """Emitted when somebody ended the pause of a group.

    Stream key: group. Ordering: after its GroupPaused. A duplicate is harmless.
    """

    group: UUID
    by: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotNoted:
    """Emitted when somebody wrote a note on a recovery point, or took it away.

    Stream key: group. Ordering: after its SnapshotSealed; the last note holds. A duplicate is
    harmless.
    """

    session: UUID
    group: UUID
    sequence: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    by: Name
    #: None: it has no note any more.
    note: Message | None
