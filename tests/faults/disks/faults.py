"""The disks that fill, and what must be true while they are full."""

import contextlib
from abc import ABC
from concurrent.futures import Future, wait
from typing import ClassVar

import psycopg

from libs.catalogdb.sessions.session import SESSION_CHANNEL
from libs.errors import OutOfSpaceError
from tests.faults.disks.disk import SmallDisk
from tests.faults.site import SECOND_CHUNKER, FaultSite
from tests.faults.volumes import AttackedVolume
from tests.support.running import eventually

MIB = 1 << 20
_CHUNKERS = ("chunker", SECOND_CHUNKER)
_REFUSED = "the disk of Postgres is full"
_FIRST_PACK = "chunker.* PUT packs/"


class FullDisk(ABC):
    """The disk of one process fills, to the last block, while everything runs."""

    #: Also the name of its volume.
    name: ClassVar[str]
    #: The process whose data are on the disk.
    process: ClassVar[str]
    #: Where in a snapshot it strikes, as a request of the S3 proxy; None: before it is asked for.
    point: ClassVar[str | None] = None
    #: What the client that asks for a snapshot meanwhile must read: code, object and way out. Empty
    #: where the session waits for space and is sealed.
    refusal: ClassVar[tuple[str, ...]] = ()
    #: Whether a restore may be refused meanwhile, with the same words; otherwise each must succeed.
    refuses_restores: ClassVar[bool] = False
    #: Whether the process ends itself, so that somebody has to start it once there is room.
    halts: ClassVar[bool] = False

    def strike(self, site: FaultSite, disk: SmallDisk, volume: AttackedVolume) -> None:
        """Fill the disk."""
        disk.fill()

    def meanwhile(self, site: FaultSite, asked: "Future[bool]") -> None:  # noqa: B027 -- mostly there is nothing to do
        """Make faster what the client waits for."""

    def relieve(self, site: FaultSite, disk: SmallDisk, volume: AttackedVolume) -> None:
        """Make room, as an operator would."""
        disk.make_room()


class KafkaDiskFull(FullDisk):
    """The only log folder of the only broker that can be reached fills.

    Seen where retention is longer than the disk is large, where a consumer's topic was forgotten,
    or where logs and dumps share the disk. Kafka marks the folder as failed with its first refused
    append and halts; it does not come up again before there is room. Kafka holds copies only, so
    nothing that was acknowledged may depend on it.
    """

    name = "kafka"
    process = "kafka"
    refusal = ("unavailable", "Kafka", "make room if a disk of theirs is full")
    halts = True


class PostgresDiskFull(FullDisk):
    """The disk of the catalog's tables fills in the middle of a snapshot; its WAL has room.

    Seen with growth that nobody watched, bloat behind a forgotten transaction, or a sort that
    spills. Postgres refuses what needs a new page (53100), and goes on with everything else. To end
    a session or to pin what a restore reads may need a page: clients are told so.
    """

    name = "postgres"
    process = "postgres"
    point = _FIRST_PACK
    refusal = ("out-of-space", "the disk of Postgres is full", "Free space there")
    refuses_restores = True

    def meanwhile(self, site: FaultSite, asked: "Future[bool]") -> None:
        eventually(
            "a chunker is refused",
            lambda: asked.done() or any(_REFUSED in site.log(name) for name in _CHUNKERS),
        )

        def is_answered() -> bool:
            self._reach_deadline(site)
            return bool(wait([asked], timeout=1).done)

        eventually("the client is told", is_answered)

    def relieve(self, site: FaultSite, disk: SmallDisk, volume: AttackedVolume) -> None:
        super().relieve(site, disk, volume)
        eventually("a session that could not end ends", lambda: not self._reach_deadline(site))

    @staticmethod
    def _reach_deadline(site: FaultSite) -> bool:
        """What the chunker could not reject waits for its deadline: now; whether there is any."""
        with contextlib.suppress(psycopg.errors.DiskFull):
            # Again and again: what the agent reads meanwhile is progress, and moves it.
            site.sql(
                """UPDATE session SET deadline = now() - interval '1 minute'
                   WHERE state = 'o' AND deadline > now() RETURNING 1"""
            )
        site.sql("SELECT pg_notify(%s, '')", SESSION_CHANNEL)
        return bool(site.sql("SELECT 1 FROM session WHERE state = 'o'"))


class PostgresWalDiskFull(FullDisk):
    """The disk of Postgres' WAL fills in the middle of a snapshot.

    Seen with a replication slot whose standby is gone, or with archiving that fails: the WAL is
    kept until there is no room for more. Postgres panics, and does not come up again before there
    is room. Whatever was under way waits for it.
    """

    name = "postgres-wal"
    process = "postgres"
    point = _FIRST_PACK
    halts = True
    _SEGMENT_SIZE_BYTES = 16 * MIB

    def strike(self, site: FaultSite, disk: SmallDisk, volume: AttackedVolume) -> None:
        # Long messages fill the segments that there are; that a commit has no room is a panic.
        message = "SELECT pg_logical_emit_message(true, 'filler', repeat('x', %s))"

        def has_ended() -> bool:
            disk.fill()
            for size_bytes in (self._SEGMENT_SIZE_BYTES, 1):
                with contextlib.suppress(psycopg.Error):
                    site.sql(message, size_bytes)
            return site.pid_of(self.process) is None

        eventually("Postgres has ended itself", has_ended, 30)


class StoreFull(FullDisk):
    """The drives of the object store, or the quota of the bucket, are used up.

    Seen by every operator of backups. MinIO refuses each PUT (507) and serves the rest. An expiry
    is decided, but neither answered nor followed by deletions, as both wait for a checkpoint that
    tells of it: room for a few of those makes the collector free all the rest.
    """

    name = "store"
    process = "minio"
    refusal = ("out-of-space", "PUT packs/", "Enlarge the store", "Delete no object by hand")
    #: MinIO wants 1 % of a drive free, here 2 MiB; checkpoints of this catalog have some KiB.
    _LITTLE_ROOM_BYTES = 4 * MIB

    def strike(self, site: FaultSite, disk: SmallDisk, volume: AttackedVolume) -> None:
        # Not a chunk of the first one is left: only then are its packs deleted, and not rewritten.
        volume.path.write_bytes(volume.rng.randbytes(volume.size_bytes))
        assert volume.take(), volume.last_refusal  # so that the first one can be given up
        volume.change(0.6)
        disk.fill()

    def relieve(self, site: FaultSite, disk: SmallDisk, volume: AttackedVolume) -> None:
        with contextlib.suppress(OutOfSpaceError):
            volume.give_up_oldest()
        assert disk.free_bytes < self._LITTLE_ROOM_BYTES, "it was not full"
        disk.make_room(self._LITTLE_ROOM_BYTES)
        eventually(
            "what was expired is deleted, without more room",
            lambda: disk.free_bytes > volume.size_bytes,
            30,
        )
        # It looks at its drives every other second.
        eventually("MinIO takes objects again", volume.take, 15)


class AgentDiskFull(FullDisk):
    """The state folder of an agent is on a file system that is full.

    Seen where a node's root file system fills with logs. The agent cannot save the fingerprints of
    a capture; had it sealed all the same, the next capture would have compared with older ones.
    """

    name = "agent"
    process = "agent"
    refusal = ("out-of-space", "fingerprint", "free space in the agent's state folder")


FAULTS: tuple[FullDisk, ...] = (
    KafkaDiskFull(),
    PostgresDiskFull(),
    PostgresWalDiskFull(),
    StoreFull(),
    AgentDiskFull(),
)
