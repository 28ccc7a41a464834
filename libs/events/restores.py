"""Events of `backcast.restores`: who reads which snapshot back, and how it went."""

from dataclasses import dataclass
from uuid import UUID

from libs.events.fields import Code, Count, Message, Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRequested:
    """Emitted when a restore was accepted: the snapshot is pinned for it.

    Stream key: restore. Ordering: first event of its restore. A duplicate is harmless.
    """

    restore: UUID
    #: Session of the snapshot.
    session: UUID
    volume: UUID
    #: Logical size of what is to be given back.
    size_bytes: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlanned:
    """Emitted when it was resolved which packs a window of a restore reads; each of them is pinned.

    Stream key: restore. Ordering: after the request; a window may be planned while earlier ones are
    restored, and again with the same figures. A duplicate is harmless.
    """

    restore: UUID
    session: UUID
    volume: UUID
    #: The window: chunk indexes of the volume.
    first_chunk: Count
    chunk_count: Count
    packs: Count
    frames: Count
    #: Stored bytes of these frames.
    planned_bytes: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreProgressed:
    """Emitted now and then while a restore runs, when its deadline is renewed.

    Stream key: restore. Ordering: figures never decrease. A duplicate is harmless: they are totals.
    """

    restore: UUID
    session: UUID
    volume: UUID
    #: Logical bytes written and verified so far.
    restored_bytes: Count
    #: Stored bytes fetched so far.
    fetched_bytes: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreCompleted:
    """Emitted when whoever restores reported that every byte was written and verified.

    Stream key: restore. Ordering: last event of its restore. A duplicate is harmless.
    """

    restore: UUID
    session: UUID
    volume: UUID
    restored_bytes: Count
    fetched_bytes: Count
    seconds: Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreFailed:
    """Emitted when a restore ended without giving everything back, or its deadline passed.

    Stream key: restore. Ordering: last event of its restore. A duplicate is harmless.
    """

    restore: UUID
    session: UUID
    volume: UUID
    restored_bytes: Count
    fetched_bytes: Count
    code: Code
    message: Message
