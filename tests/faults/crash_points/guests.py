"""Those who come for a piece of work: clients, operators, collectors, sweepers, rewriters, readers.

A guest that dies is followed by one that has only what it would know in earnest, and begins again;
it is done when one of them got through.
"""

import mmap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

from prometheus_client import CollectorRegistry

from libs.catalogdb.deletion import small_packs
from libs.catalogdb.sessions.session import GroupBusy
from libs.catalogdb.snapshots.expiry import Refused, expire
from libs.catalogdb.snapshots.leases import (
    PlannedWindow,
    RestoreOutcome,
    RestoreProgress,
    end_restore,
    open_lease,
    report_planned,
    report_progress,
)
from libs.catalogdb.snapshots.points import find_volume_at
from libs.checkpoints.shelf import CheckpointShelf
from libs.copies.stores import SECOND
from libs.errors import NotFoundError
from libs.ids import uuid7
from libs.packs.layout import PACK_SIZE_BYTES_MAX
from libs.points import RecoveryPoint
from libs.ranges import ByteRange, ChunkRun
from libs.reading.frames import FrameReader
from libs.reading.volume import VolumeReaders
from libs.runtime.signals import Stop
from services.catalog import folding as catalog_folding
from services.catalog.copies import replicator as catalog_replicator
from services.catalog.copies.maker import CopyMaker
from services.catalog.copies.mirror import Mirror
from services.catalog.deletion import collector as catalog_collector
from services.catalog.deletion.passes import Collection, Step
from services.catalog.deletion.rewriter import RewritePolicy, Rewriter
from services.catalog.deletion.sweeper import Sweeper, SweepPolicy
from services.catalog.recovery.checkpoints import Checkpoints
from services.catalog.verification.verifier import Thoroughness, Verifier
from tests.faults.crash_points.inline import InlineExecutor
from tests.faults.crash_points.process import DEADLINE_SECONDS, Actor

if TYPE_CHECKING:
    from tests.faults.crash_points.world import World

#: More than the faults of any case; a client that needs more tries would try for ever.
_REJECTIONS_MAX = 5
#: As the settings have it; `scenarios.Aged` is longer.
_DAY_SECONDS = 86_400.0
#: Sessions and events that are folded in one transaction, and packs of a size class that are
#: merged: few, so that a case has several transactions of each without a long history.
_SESSION_COUNT, _EVENT_COUNT, _FAN_IN = 1, 3, 3


class Client(Actor):
    """Whoever wants a snapshot, and asks until it has one; it cannot crash.

    Every session that ends without a snapshot must be the fault of a fault.
    """

    def __init__(self, world: "World", name: str, group: str, *, full: bool = False) -> None:
        super().__init__(world, name)
        self.group = group
        self.full = full
        self.session = uuid7()
        self.rejections: list[str] = []
        self.is_done = False
        self._asked = False

    def successor(self) -> Self:
        other = type(self)(self.world, self.name, self.group, full=self.full)
        other.session, other.rejections = self.session, self.rejections
        return other

    def step(self) -> bool:
        if self.is_done:
            return False
        if not self._asked:
            conductor = self.world.coordinator.conductor
            answer = conductor.request(
                self.world.tenant.name, self.group, self.session, full=self.full
            )
            self._asked = not isinstance(answer, GroupBusy)
            return self._asked
        found = self.world.session_end(self.session)
        if found is None:
            return False
        state, reason = found
        if state == "s":
            self.is_done = True
        else:
            self.rejections.append(reason)
            assert len(self.rejections) <= _REJECTIONS_MAX, f"never sealed: {self.rejections}"
            self.session, self._asked = uuid7(), False
            self.world.wake_agent()  # who tries again tries later
        return True


class Worker(Actor):
    """A guest whose work is a sequence of pieces, which another one begins anew."""

    def __init__(self, world: "World", name: str, *arguments: str) -> None:
        super().__init__(world, name)
        self.is_done = False
        self.arguments = arguments
        self._pieces: Iterator[object] | None = None

    def successor(self) -> Self:
        return type(self)(self.world, self.name, *self.arguments)

    def step(self) -> bool:
        if self.is_done:
            return False
        if self._pieces is None:
            self._pieces = self.pieces()
        self.is_done = next(self._pieces, self) is self
        return True

    def finish(self) -> None:
        """Do all of it, while nobody else does anything."""
        while not self.is_done:
            self.step()

    def pieces(self) -> Iterator[object]:
        """The work; others may act between two pieces."""
        raise NotImplementedError("each kind of guest says what it does")


class Expirer(Worker):
    """An operator who gives up all snapshots of a group but the newest."""

    def pieces(self) -> Iterator[object]:
        (group,) = self.arguments
        catalog = self.catalog(self.world.site.catalog)
        for session in self.world.older_snapshots(group):
            self.world.given_up.add(session)
            outcome = expire(catalog, self.world.tenant.name, session, "operator")
            assert not isinstance(outcome, Refused), outcome
            yield session


class Collector(Worker):
    """A pass of collection."""

    def pieces(self) -> Iterator[Step]:
        catalog, store = self.catalog(self.world.site.catalog), self.store()
        checkpoints = Checkpoints(catalog, store, CheckpointShelf(store, self.world.kek), 2)
        stores = self.stores()
        mirror = Mirror(catalog, stores, self.world.kek, 2)

        def witness() -> None:
            checkpoints.witness()
            mirror.copy_checkpoint(SECOND)

        collector = catalog_collector.Collector(
            catalog,
            stores,
            self.vault(),
            DEADLINE_SECONDS,
            checkpoints.witness,
            {SECOND: witness},
        )
        return Collection(collector.stages()).steps()


class Replicate(Worker):
    """A round of replication."""

    def pieces(self) -> Iterator[object]:
        catalog, stores, vault = (
            self.catalog(self.world.site.catalog),
            self.stores(),
            self.vault(),
        )
        yield catalog_replicator.Replicator(
            catalog,
            stores,
            CopyMaker(catalog, stores, vault),
            Mirror(catalog, stores, self.world.kek, 2),
            catalog_replicator.ReplicationMetrics(CollectorRegistry()),
        ).replicate()


class Sweep(Worker):
    """A pass of the orphan sweep, for which nothing is too young."""

    def pieces(self) -> Iterator[object]:
        policy = SweepPolicy(young_seconds=0, claim_seconds=DEADLINE_SECONDS)
        for store_no, store in self.stores().by_number.items():
            catalog = self.catalog(self.world.site.catalog)
            yield Sweeper(catalog, store, policy, store_no=store_no).run()


class Fold(Worker):
    """Folds ended sessions, and events that Kafka has."""

    def pieces(self) -> Iterator[object]:
        catalog, store = self.catalog(self.world.site.catalog), self.store()
        checkpoints = Checkpoints(catalog, store, CheckpointShelf(store, self.world.kek), 2)
        policy = catalog_folding.FoldPolicy(_DAY_SECONDS, 30 * _DAY_SECONDS)
        catalog_folding.Folding(catalog, policy, checkpoints.witness).run(lambda: None)
        yield policy


class Rewrite(Worker):
    """A pass of rewriting; packs are too young to be merged."""

    policy = RewritePolicy(0.5, DEADLINE_SECONDS, DEADLINE_SECONDS, 3600)

    def pieces(self) -> Iterator[object]:
        catalog, vault = self.catalog(self.world.site.catalog), self.vault()
        rewriter = Rewriter(catalog, self.stores(), vault, self.policy)
        # Pages that are never touched: 36 MiB of zeros take 10 ms.
        buffer = memoryview(mmap.mmap(-1, PACK_SIZE_BYTES_MAX))
        rewriter._buffer = buffer  # type: ignore[assignment]  # a bytearray in earnest
        tally = rewriter.run()
        self.world.rewritten += tally.rewritten
        yield tally


class Merge(Rewrite):
    """A pass of rewriting that only merges small packs."""

    policy = RewritePolicy(0.0, DEADLINE_SECONDS, DEADLINE_SECONDS, _DAY_SECONDS)


class Restore(Worker):
    """A whole restore of a volume's newest point, compared byte for byte."""

    def pieces(self) -> Iterator[object]:
        (volume,) = self.arguments
        catalog, vault, lease = self.catalog(self.world.site.restore), self.vault(), uuid7()
        frames = FrameReader(self.stores(), vault)
        readers = VolumeReaders(catalog, vault, frames, frames, DEADLINE_SECONDS)
        point = find_volume_at(catalog, self.world.tenant.name, RecoveryPoint(volume, "latest"))
        size, expected = point.size_bytes, self.world.expected(point.session, volume)
        open_lease(catalog, lease, point, DEADLINE_SECONDS, announce=True)
        yield "opened"
        reader = readers.join(point, lease)
        try:
            placed = reader.locate(ChunkRun(0, size >> 16))
            report_planned(catalog, lease, point, PlannedWindow(0, size >> 16, 1, 1, size))
            yield "planned"
            found = reader.read(placed, ByteRange(0, size))
            assert found == expected, f"AckedDurable: a restore of {point.label} has other bytes"
            progress = RestoreProgress(size, 0)
            report_progress(catalog, lease, point, progress, DEADLINE_SECONDS)
            yield "read"
            outcome = RestoreOutcome(progress, 1.5, None)
            end_restore(catalog, self.world.tenant.name, lease, outcome)
        except (
            NotFoundError
        ):  # it was not heard of before its deadline: whoever restores begins anew
            yield from self.pieces()


class Verify(Worker):
    """A full verification of a volume's newest point, which must find nothing."""

    def pieces(self) -> Iterator[object]:
        (volume,) = self.arguments
        catalog = self.catalog(self.world.site.catalog)
        verifier = Verifier(catalog, self.stores(), self.vault(), DEADLINE_SECONDS, 0, Stop())
        point = find_volume_at(catalog, self.world.tenant.name, RecoveryPoint(volume, "latest"))
        how = Thoroughness("full")
        verdict = verifier.verify(self.world.tenant.name, point.session, how)
        assert type(verdict).__name__ == "Intact", f"{point.label}: {verdict}"
        yield verdict


def patched_catalog() -> dict[tuple[object, str], object]:
    """What must be replaced in the catalog service's modules: threads, and sizes."""
    return {
        (catalog_folding, "_SESSION_COUNT"): _SESSION_COUNT,
        (catalog_folding, "_EVENT_COUNT"): _EVENT_COUNT,
        (small_packs, "FAN_IN"): _FAN_IN,
        (catalog_collector, "ThreadPoolExecutor"): InlineExecutor,
        (catalog_replicator, "ThreadPoolExecutor"): InlineExecutor,
    }
