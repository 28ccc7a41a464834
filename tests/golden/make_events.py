"""Sample events, and the golden bytes made of them: `python -m tests.golden.make_events`.

A golden file that exists is never written again: a published event does not change, it gets a new
version. Files of old versions stay, and are read by today's code for ever.
"""

from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from libs.events.access.acts import ActRecorded
from libs.events.block_changes import (
    CaptureAborted,
    CaptureCompleted,
    CaptureStarted,
    ExtentsChanged,
    TrackingLost,
    UnchangedSampled,
)
from libs.events.codec import encode
from libs.events.envelope import Envelope
from libs.events.notifications import (
    NotificationChanged,
    NotificationOpened,
    NotificationRaised,
    NotificationResolved,
)
from libs.events.packs import PackCondemned, PackDeleted, PackRewritten, PackStored
from libs.events.record import to_record
from libs.events.registry import REGISTRY, Event
from libs.events.restores import (
    RestoreCompleted,
    RestoreFailed,
    RestorePlanned,
    RestoreProgressed,
    RestoreRequested,
)
from libs.events.snapshots import (
    BarrierNode,
    BarrierReached,
    DamagedExtent,
    GroupPaused,
    GroupRenamed,
    GroupResumed,
    HoldPlaced,
    HoldReleased,
    RetentionChanged,
    SealedVolume,
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
from libs.events.topics import NOTIFICATIONS
from libs.ranges import ChunkRun, pack_runs

GOLDEN = Path(__file__).parent / "events"
COMMAND = "python -m tests.golden.make_events"


def _id(number: int) -> UUID:
    return UUID(int=0x0190_0000_0000_7000_8000_0000_0000_0000 + number)


SESSION, CAPTURE, GROUP, VOLUME, BASE, RESTORE = (_id(number) for number in range(1, 7))
_ABOUT = {"session": SESSION, "capture": CAPTURE, "volume": VOLUME}
_RESTORE = {"restore": RESTORE, "session": SESSION, "volume": VOLUME}
_WRONG = {
    "notification": str(_id(12)),
    "kind": "session-rejected",
    "about": str(GROUP),
    "group": "db",
}
_SEALED = SealedVolume(
    volume=VOLUME,
    name="vm",
    root=bytes(range(32)),
    root_level=1,
    size_bytes=1 << 40,
    read_bytes=1 << 30,
    changed_bytes=1 << 25,
    sent_bytes=1 << 24,
    stored_bytes=1 << 23,
)

SAMPLES: tuple[Event, ...] = (
    CaptureStarted(
        **_ABOUT,
        tenant="default",
        group=GROUP,
        node="node-1",
        base=BASE,
        boot=_id(7),
        complete=False,
        tracking="exact",
        volume_size_bytes=1 << 40,
        chunk_size_bytes=65536,
    ),
    ExtentsChanged(
        **_ABOUT,
        batch=0,
        runs=pack_runs([ChunkRun(3, 2), ChunkRun(9, 1)]),
        ids=bytes(96),
        zero_runs=pack_runs([ChunkRun(5, 4)]),
        settled_below=10,
        tags=b"\0\1\0",
    ),
    CaptureCompleted(
        **_ABOUT,
        batches=1,
        batches_digest=bytes(range(32)),
        read_bytes=1 << 30,
        changed_bytes=3 << 16,
        consistency="unvouched",
        seconds=1.25,
    ),
    CaptureAborted(**_ABOUT, code="source", message="volume vm: shorter than when it was opened"),
    TrackingLost(volume=VOLUME, session=None, capture=None, reason="unclean stop"),
    UnchangedSampled(
        **_ABOUT,
        batch=8,
        runs=pack_runs([ChunkRun(3, 1), ChunkRun(70_000, 2)]),
        ids=bytes(range(96)),
        zero_runs=pack_runs([ChunkRun(5, 1)]),
    ),
    PackStored(
        generation=_id(8),
        domain=_id(9),
        tenant="default",
        size_bytes=1 << 25,
        chunk_count=1200,
        session=SESSION,
    ),
    PackRewritten(
        generation=_id(10),
        domain=_id(9),
        tenant="default",
        size_bytes=1 << 24,
        chunk_count=500,
        replaced=(_id(8), _id(11)),
    ),
    PackCondemned(generation=_id(8), size_bytes=1 << 25, moved_to=_id(10)),
    PackDeleted(generation=_id(8)),
    SnapshotRequested(session=SESSION, group=GROUP, base=None),
    BarrierReached(
        session=SESSION,
        group=GROUP,
        attempt=2,
        nodes=(
            BarrierNode(
                node="node-1",
                means="fsfreeze",
                held_at_us=1_795_000_000_000_000,
                cut_at_us=1_795_000_000_010_000,
                released_at_us=1_795_000_000_020_000,
                unbroken=True,
            ),
        ),
    ),
    SnapshotSealed(
        session=SESSION,
        group=GROUP,
        sequence=12,
        base=BASE,
        volumes=(_SEALED,),
        manifest_key="manifests/default/group/0000000012",
        consistency="unvouched",
        seconds=2.5,
    ),
    SnapshotRejected(session=SESSION, group=GROUP, code="deadline", message="no progress"),
    SnapshotReplicated(session=SESSION, group=GROUP, sequence=12, copies=2),
    SnapshotVerified(
        session=SESSION,
        group=GROUP,
        sequence=12,
        level="sampled",
        packs=40,
        fetched_bytes=1 << 24,
        seconds=3.5,
    ),
    SnapshotDamaged(
        session=SESSION,
        group=GROUP,
        sequence=12,
        damaged_bytes=1 << 17,
        extent_count=2,
        extents=(
            DamagedExtent(
                volume=VOLUME, offset_bytes=1 << 16, length_bytes=1 << 16, generation=_id(8)
            ),
            DamagedExtent(
                volume=VOLUME, offset_bytes=1 << 20, length_bytes=1 << 16, generation=None
            ),
        ),
        manifest="its MAC does not match",
    ),
    SnapshotExpired(session=SESSION, group=GROUP, sequence=12, by="retention"),
    SnapshotRecovered(
        session=SESSION, group=GROUP, sequence=12, manifest_key="manifests/m", proved=False
    ),
    HoldPlaced(session=SESSION, group=GROUP, owner="legal", reason="case 17"),
    HoldReleased(session=SESSION, group=GROUP, owner="legal"),
    RetentionChanged(group=GROUP, keep_last=7, keep_for_seconds=30 * 86400),
    VolumeRenamed(volume=VOLUME, group=GROUP, before="vm", name="web"),
    GroupRenamed(group=GROUP, before="vm", name="web"),
    VolumeMoved(
        volume=VOLUME, group=GROUP, name="vm", node="node-2", path="/images/vm.raw", freeze=None
    ),
    VolumeRemoved(volume=VOLUME, group=GROUP, name="vm", by="ops"),
    VolumeReturned(volume=VOLUME, group=GROUP, name="vm"),
    GroupPaused(group=GROUP, by="ops", reason="the array is being exchanged"),
    GroupResumed(group=GROUP, by="ops"),
    SnapshotNoted(session=SESSION, group=GROUP, sequence=3, by="ops", note="before the upgrade"),
    RestoreRequested(**_RESTORE, size_bytes=1 << 40),
    RestorePlanned(
        **_RESTORE,
        first_chunk=1 << 14,
        chunk_count=1 << 14,
        packs=3,
        frames=70,
        planned_bytes=1 << 24,
    ),
    RestoreProgressed(**_RESTORE, restored_bytes=1 << 30, fetched_bytes=1 << 23),
    RestoreCompleted(**_RESTORE, restored_bytes=1 << 40, fetched_bytes=1 << 24, seconds=9.5),
    RestoreFailed(
        **_RESTORE, restored_bytes=7, fetched_bytes=9, code="out-of-space", message="disk full"
    ),
    NotificationRaised(
        kind="tracking-lost",
        severity="warning",
        message="volume vm: compares everything once",
        volume="vm",
    ),
    ActRecorded(
        number=17,
        at="2026-11-22T10:00:00.000250Z",
        service="catalog",
        token="desk",
        roles=("delete", "reader"),
        address="10.0.0.7",
        tenant="acme",
        method="POST",
        route="/v1/tenants/{tenant}/snapshots/{session}/expire",
        target=f"/v1/tenants/acme/snapshots/{SESSION}/expire?dry_run=true",
        status=200,
        digest=bytes(range(32)),
    ),
    NotificationOpened(
        **_WRONG,
        severity="error",
        message="group db: no snapshot was made: deadline: no progress",
        session=str(SESSION),
    ),
    NotificationChanged(
        **_WRONG,
        severity="error",
        message="group db: no snapshot was made: agent-restarted: take it again",
        session=str(BASE),
    ),
    NotificationResolved(**_WRONG, reason="snapshot db@12 was sealed", seconds=86400.5),
)


def envelope_of(event: Event) -> Envelope:
    """An envelope with every attribute, for any event."""
    name, version = REGISTRY.wire_of(type(event))
    return Envelope(
        event_id=_id(100),
        type=name,
        version=version,
        source="agent/node-1",
        subject=str(VOLUME),
        tenant="default",
        occurred_at=datetime(2026, 11, 22, 10, 0, 0, 250, tzinfo=UTC),
        position=42,
        correlation_id=SESSION,
        causation_id=_id(101),
        mac=bytes(range(32)),
    )


def golden_files() -> dict[Path, bytes]:
    """What today's code writes for every sample, by the file that keeps it."""
    files = {}
    for event in SAMPLES:
        name, version = REGISTRY.wire_of(type(event))
        files[GOLDEN / f"{name}-v{version}.msgpack"] = encode(event)
        record = to_record(envelope_of(event), encode(event))
        if isinstance(event, CaptureStarted):
            lines = (f"{header}: {value.decode()}\n" for header, value in record.headers)
            files[GOLDEN / "headers.txt"] = "".join(lines).encode()
        if record.topic == NOTIFICATIONS:
            files[GOLDEN / f"{name}-v{version}.json"] = record.value
    return files


def main() -> None:
    """Write the files that are missing."""
    for path, content in golden_files().items():
        if not path.exists():
            path.write_bytes(content)
            print(f"made {path.relative_to(GOLDEN.parent)}")


if __name__ == "__main__":
    main()
