"""Every event there is: its topic, wire name, version and class, in one explicit table."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from libs.errors import InvariantViolation, UnknownEventError
from libs.events.access.acts import ActRecorded
from libs.events.block_changes import (
    CaptureAborted,
    CaptureCompleted,
    CaptureStarted,
    ExtentsChanged,
    TrackingLost,
    UnchangedSampled,
)
from libs.events.notifications import (
    NotificationChanged,
    NotificationOpened,
    NotificationRaised,
    NotificationResolved,
)
from libs.events.packs import PackCondemned, PackDeleted, PackRewritten, PackStored
from libs.events.restores import (
    RestoreCompleted,
    RestoreFailed,
    RestorePlanned,
    RestoreProgressed,
    RestoreRequested,
)
from libs.events.snapshots import (
    BarrierReached,
    GroupPaused,
    GroupRenamed,
    GroupResumed,
    HoldPlaced,
    HoldReleased,
    RetentionChanged,
    SnapshotDamaged,
    SnapshotExpired,
    SnapshotNoted,
    SnapshotRecovered,
    SnapshotRejected,
    SnapshotReplicated,
    SnapshotRequested,
    SnapshotSealed,
    SnapshotVerified,
    VolumeMoved,
    VolumeRemoved,
    VolumeRenamed,
    VolumeReturned,
)
from libs.events.topics import AUDIT, BLOCK_CHANGES, NOTIFICATIONS, PACKS, RESTORES, SNAPSHOTS

Event = (
    CaptureStarted
    | ExtentsChanged
    | CaptureCompleted
    | CaptureAborted
    | TrackingLost
    | UnchangedSampled
    | PackStored
    | PackRewritten
    | PackCondemned
    | PackDeleted
    | SnapshotRequested
    | BarrierReached
    | SnapshotSealed
    | SnapshotRejected
    | SnapshotReplicated
    | SnapshotVerified
    | SnapshotDamaged
    | SnapshotExpired
    | SnapshotRecovered
    | HoldPlaced
    | HoldReleased
    | RetentionChanged
    | VolumeRenamed
    | GroupRenamed
    | VolumeMoved
    | VolumeRemoved
    | VolumeReturned
    | GroupPaused
    | GroupResumed
    | SnapshotNoted
    | RestoreRequested
    | RestorePlanned
    | RestoreProgressed
    | RestoreCompleted
    | RestoreFailed
    | NotificationRaised
    | ActRecorded
    | NotificationOpened
    | NotificationChanged
    | NotificationResolved
)

#: Field names and plain values, as msgpack gives them: UUIDs are 16 bytes.
Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class EventType:
    """An event at its newest version; older versions are read through upcasters."""

    topic: str
    #: Never changes once published, and never derives from the name of a module or class.
    name: str
    version: int
    cls: type[Any]


@dataclass(frozen=True, slots=True)
class Upcaster:
    """Turns the fields of version ``version`` of an event into those of the next one.

    It always leads from N to N + 1, so a cycle cannot be written down.
    """

    name: str
    version: int
    apply: Callable[[Fields], Fields]


EVENTS: tuple[EventType, ...] = (
    EventType(BLOCK_CHANGES, "backcast.block_changes.capture_started", 2, CaptureStarted),
    EventType(BLOCK_CHANGES, "backcast.block_changes.extents_changed", 2, ExtentsChanged),
    EventType(BLOCK_CHANGES, "backcast.block_changes.capture_completed", 2, CaptureCompleted),
    EventType(BLOCK_CHANGES, "backcast.block_changes.capture_aborted", 1, CaptureAborted),
    EventType(BLOCK_CHANGES, "backcast.block_changes.tracking_lost", 1, TrackingLost),
    EventType(BLOCK_CHANGES, "backcast.block_changes.unchanged_sampled", 1, UnchangedSampled),
    EventType(PACKS, "backcast.packs.pack_stored", 1, PackStored),
    EventType(PACKS, "backcast.packs.pack_rewritten", 1, PackRewritten),
    EventType(PACKS, "backcast.packs.pack_condemned", 1, PackCondemned),
    EventType(PACKS, "backcast.packs.pack_deleted", 1, PackDeleted),
    EventType(SNAPSHOTS, "backcast.snapshots.snapshot_requested", 1, SnapshotRequested),
    EventType(SNAPSHOTS, "backcast.snapshots.barrier_reached", 1, BarrierReached),
    EventType(SNAPSHOTS, "backcast.snapshots.snapshot_sealed", 2, SnapshotSealed),
    EventType(SNAPSHOTS, "backcast.snapshots.snapshot_rejected", 1, SnapshotRejected),
    EventType(SNAPSHOTS, "backcast.snapshots.snapshot_replicated", 1, SnapshotReplicated),
    EventType(SNAPSHOTS, "backcast.snapshots.snapshot_verified", 1, SnapshotVerified),
    EventType(SNAPSHOTS, "backcast.snapshots.snapshot_damaged", 1, SnapshotDamaged),
    EventType(SNAPSHOTS, "backcast.snapshots.snapshot_expired", 1, SnapshotExpired),
    EventType(SNAPSHOTS, "backcast.snapshots.snapshot_recovered", 1, SnapshotRecovered),
    EventType(SNAPSHOTS, "backcast.snapshots.hold_placed", 1, HoldPlaced),
    EventType(SNAPSHOTS, "backcast.snapshots.hold_released", 1, HoldReleased),
    EventType(SNAPSHOTS, "backcast.snapshots.retention_changed", 1, RetentionChanged),
    EventType(SNAPSHOTS, "backcast.snapshots.volume_renamed", 1, VolumeRenamed),
    EventType(SNAPSHOTS, "backcast.snapshots.group_renamed", 1, GroupRenamed),
    EventType(SNAPSHOTS, "backcast.snapshots.volume_moved", 1, VolumeMoved),
    EventType(SNAPSHOTS, "backcast.snapshots.volume_removed", 1, VolumeRemoved),
    EventType(SNAPSHOTS, "backcast.snapshots.volume_returned", 1, VolumeReturned),
    EventType(SNAPSHOTS, "backcast.snapshots.group_paused", 1, GroupPaused),
    EventType(SNAPSHOTS, "backcast.snapshots.group_resumed", 1, GroupResumed),
    EventType(SNAPSHOTS, "backcast.snapshots.snapshot_noted", 1, SnapshotNoted),
    EventType(RESTORES, "backcast.restores.restore_requested", 1, RestoreRequested),
    EventType(RESTORES, "backcast.restores.restore_planned", 1, RestorePlanned),
    EventType(RESTORES, "backcast.restores.restore_progressed", 1, RestoreProgressed),
    EventType(RESTORES, "backcast.restores.restore_completed", 1, RestoreCompleted),
    EventType(RESTORES, "backcast.restores.restore_failed", 1, RestoreFailed),
    EventType(NOTIFICATIONS, "backcast.notifications.raised", 1, NotificationRaised),
    EventType(AUDIT, "backcast.audit.act_recorded", 1, ActRecorded),
    EventType(NOTIFICATIONS, "backcast.notifications.opened", 1, NotificationOpened),
    EventType(NOTIFICATIONS, "backcast.notifications.changed", 1, NotificationChanged),
    EventType(NOTIFICATIONS, "backcast.notifications.resolved", 1, NotificationResolved),
)


def _tell_tracking(fields: Fields) -> Fields:
    """Before version 2 fingerprints were the only tracker."""
    return {**fields, "tracking": "none" if fields.get("complete") else "exact"}


UPCASTERS: tuple[Upcaster, ...] = (
    Upcaster("backcast.block_changes.capture_started", 1, _tell_tracking),
    # Version 1 called ``fuzzy`` what is ``unvouched`` since, too; which it was, nobody knows.
    Upcaster("backcast.block_changes.capture_completed", 1, lambda fields: fields),
    Upcaster("backcast.snapshots.snapshot_sealed", 1, lambda fields: fields),
    # Version 1 knew the tenant's own domain alone.
    Upcaster("backcast.block_changes.extents_changed", 1, lambda fields: {**fields, "tags": b""}),
)


class Registry:
    """Finds an event's class by its wire name, and its wire name by its class.

    Raises:
        InvariantViolation: the tables contradict themselves: a name, class or upcaster twice, a
            class that is not a frozen dataclass, a version that no chain of upcasters leads from.
    """

    def __init__(self, events: Iterable[EventType], upcasters: Iterable[Upcaster]) -> None:
        self._by_name: dict[str, EventType] = {}
        self._by_class: dict[type[Any], EventType] = {}
        self._upcasters: dict[tuple[str, int], Upcaster] = {}
        for event in events:
            if event.name in self._by_name or event.cls in self._by_class:
                raise InvariantViolation(f"event {event.name}: its name or class is there twice")
            parameters = getattr(event.cls, "__dataclass_params__", None)
            if parameters is None or not parameters.frozen:
                raise InvariantViolation(f"event {event.name}: its class is no frozen dataclass")
            self._by_name[event.name] = self._by_class[event.cls] = event
        for upcaster in upcasters:
            key = (upcaster.name, upcaster.version)
            if key in self._upcasters:
                raise InvariantViolation(f"event {key}: two upcasters start from this version")
            self._upcasters[key] = upcaster
        self._check_chains()

    @property
    def events(self) -> tuple[EventType, ...]:
        """All events, in the order of the table."""
        return tuple(self._by_name.values())

    def topic_of(self, cls: type[Any]) -> str:
        """The topic that events of this class are published to."""
        return self._by_class[cls].topic

    def wire_of(self, cls: type[Any]) -> tuple[str, int]:
        """Wire name and version that events of this class are written with."""
        event = self._by_class[cls]
        return event.name, event.version

    def named(self, name: str, version: int) -> EventType:
        """The event of this wire name, if this version of it can be read.

        Raises:
            UnknownEventError: no such name, or a version that this program does not know.
        """
        event = self._by_name.get(name)
        if event is None:
            raise UnknownEventError(
                f"event type {name[:80]!r}: this version of Backcast has none such"
            )
        if not 1 <= version <= event.version:
            raise UnknownEventError(
                f"event type {name}: version {version} is unknown, expected 1 to {event.version}; "
                f"is the writer newer than this program?"
            )
        return event

    def upcast(self, event: EventType, version: int, fields: Fields) -> Fields:
        """Fields of an old version as the newest version has them."""
        for step in range(version, event.version):
            fields = self._upcasters[event.name, step].apply(fields)
        return fields

    def _check_chains(self) -> None:
        needed = {
            (event.name, version)
            for event in self._by_name.values()
            for version in range(1, event.version)
        }
        if wrong := needed.symmetric_difference(self._upcasters):
            raise InvariantViolation(
                f"upcasters: expected exactly one from each version before the newest; "
                f"missing or needless: {sorted(wrong)}"
            )


REGISTRY = Registry(EVENTS, UPCASTERS)
