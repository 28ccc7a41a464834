"""Parts of one session at one chunker, with the real catalog: what they share, and what not."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from libs.catalogdb.deletion.sweeping import bury_abandoned
from libs.catalogdb.packs.registering import PackRecord, Registered
from libs.catalogdb.sessions.attempts import NotTaken, PackUse, Taken, take_part
from libs.catalogdb.sessions.session import PartView, SessionView, read_session
from libs.events.batches import BatchesDigest
from libs.events.block_changes import CaptureStarted, ExtentsChanged
from libs.events.codec import encode
from libs.events.mac import event_mac
from libs.kafka.consumer import Partition, ReceivedEvent
from libs.keys.kek import KeyEncryptionKey
from libs.keys.vault import KeyVault
from libs.packs.chunk import ChunkHasher
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ChunkRun, pack_runs
from libs.store.memory import MemoryStore
from tests.faults.crash_points.inline import InlineExecutor, run
from tests.golden.make_events import envelope_of
from tests.support.catalog import BOOT, TENANT, CatalogSite, Worker, open_on
from tests.support.chunkers import wire_chunker
from tests.support.counting import CountingCatalog
from tests.support.snapshots import MemorySpans, SnapshotTaker, completed_of, started_of

GROUP = "g"
NAMES = ("u", "v", "w")
#: Rounds of renewal after which a part that is through is finished alone.
ROUNDS = 5


class Chunker:
    """A chunker that runs its steps at once, and agents whose events a test sends one by one.

    Args:
        site: the catalog.
        contents: of the group's volumes, by name.
        elsewhere: volumes whose captures another chunker reads.
    """

    def __init__(
        self, site: CatalogSite, contents: Mapping[str, bytes], elsewhere: tuple[str, ...] = ()
    ) -> None:
        self.site, self.store = site, MemoryStore()
        kek = KeyEncryptionKey.generate()
        self.taker = SnapshotTaker(site, self.store, kek)
        self.taker.protect(TENANT, GROUP, *contents)
        self.vault = KeyVault(self.store, kek)
        self.contents = {
            name: [
                content[at : at + CHUNK_SIZE_BYTES]
                for at in range(0, len(content), CHUNK_SIZE_BYTES)
            ]
            for name, content in contents.items()
        }
        self.catalog = CountingCatalog(site.chunker)
        self.view = open_on(site, GROUP)
        self.wired = wire_chunker(
            self.catalog, self.vault, self.store, threads=InlineExecutor(), dial=self._dial
        )
        here = {part.volume for part in self.view.parts if part.volume_name not in elsewhere}
        self.wired.intake.reads = here.__contains__
        self.catalog.count = 0

    def part(self, name: str) -> PartView:
        return next(part for part in self.view.parts if part.volume_name == name)

    def start(self, name: str) -> None:
        """The capture of a volume begins."""
        self._send(name, self._started(name), 0)

    def batch(self, name: str) -> None:
        """Its only batch."""
        self._send(name, self._extents(name), 1)

    def complete(self, name: str) -> None:
        """All was published."""
        digest = BatchesDigest()
        digest.add(encode(self._extents(name)))
        self._send(name, completed_of(self._started(name), digest), 2)

    def capture(self, name: str) -> None:
        """The whole capture of a volume."""
        self.start(name)
        self.batch(name)
        self.complete(name)

    def attempt_of(self, name: str) -> UUID:
        ((attempt,),) = self.site.sql(
            "SELECT attempt FROM part WHERE capture = %s", self.part(name).capture
        )
        return UUID(str(attempt))

    @property
    def states(self) -> dict[str, str]:
        """Name → state of its part."""
        return dict(
            self.site.sql("SELECT name, p.state::text FROM part p JOIN volume USING (volume_no)")
        )

    @property
    def session(self) -> SessionView:
        return read_session(self.site.chunker, self.view.session)

    @property
    def packs(self) -> list[tuple[int, str]]:
        """Number and state of each pack."""
        return self.site.sql("SELECT pack_no, state::text FROM pack ORDER BY 1")

    def partition_of(self, name: str) -> Partition:
        return Partition("backcast.block-changes", NAMES.index(name))

    def _started(self, name: str) -> CaptureStarted:
        size_bytes = len(self.contents[name]) * CHUNK_SIZE_BYTES
        return started_of(self.view, self.part(name), size_bytes)

    def _extents(self, name: str) -> ExtentsChanged:
        part, chunks = self.part(name), self.contents[name]
        hasher = ChunkHasher(self.vault.get(self.view.domain, self.view.key_id).id_key)
        return ExtentsChanged(
            session=self.view.session,
            capture=part.capture,
            volume=part.volume,
            batch=0,
            runs=pack_runs([ChunkRun(0, len(chunks))]),
            ids=b"".join(hasher.chunk_id(chunk) for chunk in chunks),
            zero_runs=b"",
            settled_below=0,
        )

    def _send(self, name: str, event: Any, offset: int) -> None:
        part, value = self.part(name), encode(event)
        claims = replace(envelope_of(event), subject=str(part.volume), tenant=TENANT)
        envelope = replace(claims, mac=event_mac(part.token, claims, value))
        received = ReceivedEvent(self.partition_of(name), offset, envelope, event, value)
        run(self.wired.intake._handle(received))

    def _dial(self, part: PartView, _boot: UUID) -> MemorySpans:
        return MemorySpans(self.contents[part.volume_name])


def content() -> bytes:
    return os.urandom(4 * CHUNK_SIZE_BYTES)


@pytest.fixture
def chunkers(site: CatalogSite) -> Iterator[Any]:
    made: list[Chunker] = []

    def make(*names: str, **options: Any) -> Chunker:
        contents = options.pop("contents", None) or {name: content() for name in names}
        made.append(Chunker(site, contents, **options))
        return made[-1]

    yield make
    for one in made:
        one.wired.attempts.close()


def overlapping(chunker: Chunker, names: tuple[str, ...]) -> None:
    for step in (chunker.start, chunker.batch, chunker.complete):
        for name in names:
            step(name)


def one_after_another(chunker: Chunker, names: tuple[str, ...]) -> None:
    for name in names:
        chunker.capture(name)


@pytest.mark.parametrize("capture", [overlapping, one_after_another])
def test_a_group_costs_a_look_up_more_for_each_volume(
    site: CatalogSite, chunkers: Any, capture: Any
) -> None:
    counts = []
    for names in (NAMES[:1], NAMES):
        site.empty()
        chunker = chunkers(*names)
        capture(chunker, names)
        assert chunker.session.state == "sealed"
        counts.append(chunker.catalog.count)
        assert site.sql("SELECT DISTINCT boot, tracking FROM part") == [(BOOT, "none")]
    assert counts[1] == counts[0] + len(NAMES) - 1
    assert [state for _, state in chunker.packs] == ["l"]


def test_a_round_of_renewal_costs_the_same_for_one_part_and_for_three(
    site: CatalogSite, chunkers: Any
) -> None:
    counts = []
    for names in (NAMES[:1], NAMES):
        site.empty()
        chunker = chunkers(*names)
        for step in (chunker.start, chunker.batch):
            for name in names:
                step(name)
        for _ in range(3):  # with progress, and without any
            before = chunker.catalog.count
            read = {chunker.partition_of(name): 1 for name in names}
            chunker.wired.positions.note_read(read)
            chunker.wired.renewal.look_after()
            counts.append(chunker.catalog.count - before)
        assert {part.changed_bytes for part in chunker.session.parts} == {4 * CHUNK_SIZE_BYTES}
        positions = site.sql("SELECT count(*), max(next_offset) FROM consumer_position")
        assert positions == [(len(names), 0)]  # no later than any capture in work
    assert counts == [2, 1, 1] * 2


def test_a_chunk_of_two_volumes_is_in_their_pack_once_and_counts_for_both(
    site: CatalogSite, chunkers: Any
) -> None:
    same = os.urandom(CHUNK_SIZE_BYTES)
    chunker = chunkers(contents={name: same + content() for name in "uv"})
    overlapping(chunker, ("u", "v"))
    assert chunker.session.state == "sealed"
    assert len(chunker.packs) == 1
    used = site.sql("SELECT addresses FROM pack_use ORDER BY 1")
    assert used == [(6,), (6,)]  # five chunks and the map's node
    indexed = site.sql(f"SELECT count(*) FROM chunk_{chunker.view.domain_no}")
    assert indexed == site.sql("SELECT items FROM pack") == [(11,)]


def test_equal_volumes_take_the_room_of_one(site: CatalogSite, chunkers: Any) -> None:
    chunker = chunkers(contents=dict.fromkeys(NAMES, os.urandom(64 * CHUNK_SIZE_BYTES)))
    overlapping(chunker, NAMES)
    ((size_bytes,),) = site.sql("SELECT size_bytes FROM pack WHERE state = 'l'")
    assert 64 * CHUNK_SIZE_BYTES < size_bytes < 65 * CHUNK_SIZE_BYTES


def test_what_parts_have_stored_is_what_their_packs_have(site: CatalogSite, chunkers: Any) -> None:
    chunker = chunkers("u", "v")
    overlapping(chunker, ("u", "v"))
    stored = [part.stored_bytes for part in chunker.session.parts]
    assert all(stored)
    assert [(sum(stored),)] == site.sql("SELECT size_bytes FROM pack")


def test_a_part_that_another_chunker_takes_loses_nothing_of_the_others(
    site: CatalogSite, chunkers: Any
) -> None:
    """The part whose attempt claimed their pack, while the other still fills it."""
    chunker = chunkers("u", "v")
    chunker.start("u")
    chunker.start("v")
    chunker.batch("u")
    chunker.complete("u")  # it waits for v
    chunker.batch("v")
    taken = take_part(site.chunker, chunker.part("u").capture, BOOT, "other", 0, 0)
    assert isinstance(taken, Taken)
    chunker.complete("v")
    assert chunker.states == {"u": "c", "v": "f"}
    assert chunker.wired.positions.to_read_again() == {chunker.partition_of("u"): 0}
    ((pack_no, state),) = chunker.packs
    assert state == "l"
    assert site.sql("SELECT owner FROM pin") == [(chunker.attempt_of("v"),)]
    chunker.capture("u")  # the other one, which finds everything
    assert chunker.session.state == "sealed"
    assert {pack_no} < {number for number, _ in chunker.packs}


def test_a_pack_that_the_sweep_gave_up_is_registered_for_nobody(
    site: CatalogSite, chunkers: Any
) -> None:
    """Who claimed it was taken over: the other part is done anew, and nothing counts as stored."""
    chunker = chunkers("u", "v")
    chunker.start("u")
    chunker.start("v")
    chunker.batch("u")
    chunker.complete("u")  # it waits for v
    chunker.batch("v")
    assert isinstance(
        take_part(site.chunker, chunker.part("u").capture, BOOT, "other", 0, 0), Taken
    )
    assert bury_abandoned(site.catalog, 10) == 1
    chunker.complete("v")
    assert "f" not in chunker.states.values()
    assert chunker.session.state == "open"
    assert chunker.wired.positions.to_read_again() == {
        chunker.partition_of("u"): 0,
        chunker.partition_of("v"): 0,
    }
    one_after_another(chunker, ("u", "v"))
    assert chunker.session.state == "sealed"


def test_a_part_waits_for_others_some_rounds_and_is_finished_alone_then(
    site: CatalogSite, chunkers: Any
) -> None:
    chunker = chunkers("u", "v")
    chunker.start("v")
    chunker.capture("u")
    for _ in range(ROUNDS):
        assert chunker.states["u"] != "f"
        chunker.wired.renewal.look_after()
    assert chunker.states == {"u": "f", "v": "c"}
    chunker.batch("v")
    chunker.complete("v")
    assert chunker.session.state == "sealed"


def test_nobody_waits_for_a_part_that_another_chunker_reads(
    site: CatalogSite, chunkers: Any
) -> None:
    chunker = chunkers("u", "v", elsewhere=("v",))
    chunker.capture("u")
    assert chunker.states == {"u": "f", "v": "w"}
    assert site.sql("SELECT attempt FROM part WHERE state = 'w'") == [(None,)]


def test_nobody_waits_for_a_part_that_another_chunker_took_meanwhile(
    site: CatalogSite, chunkers: Any
) -> None:
    """Partitions have moved, and its capture never begins here."""
    chunker = chunkers("u", "v")
    chunker.capture("u")
    assert chunker.states == {"u": "c", "v": "w"}
    assert isinstance(
        take_part(site.chunker, chunker.part("v").capture, BOOT, "other", 1, 0), Taken
    )
    chunker.wired.renewal.look_after()
    assert chunker.states == {"u": "f", "v": "c"}


def test_what_was_taken_with_another_part_is_renewed_with_how_its_capture_began(
    site: CatalogSite, chunkers: Any
) -> None:
    chunker = chunkers("u", "v")
    chunker.start("u")
    chunker.start("v")
    kept = "SELECT boot, partition, start_offset, tracking FROM part WHERE capture = %s"
    assert site.sql(kept, chunker.part("v").capture) == [(None, None, None, "unknown")]
    chunker.batch("v")
    chunker.wired.renewal.look_after()
    assert site.sql(kept, chunker.part("v").capture) == [(BOOT, 1, 0, "none")]


def test_an_agent_that_was_restarted_ends_the_session_before_that_is_kept(
    site: CatalogSite, chunkers: Any
) -> None:
    chunker = chunkers("u", "v")
    chunker.start("u")
    chunker.start("v")
    later = started_of(
        chunker.view, chunker.part("v"), len(chunker.contents["v"]) * CHUNK_SIZE_BYTES, UUID(int=8)
    )
    chunker._send("v", later, 3)
    assert chunker.session.reject_code == "agent-restarted"


def test_a_part_that_fails_ends_the_others(site: CatalogSite, chunkers: Any) -> None:
    chunker = chunkers("u", "v")
    chunker.start("u")
    chunker.start("v")
    chunker.batch("u")
    chunker.complete("u")
    chunker.complete("v")  # its batch is missing
    assert chunker.session.reject_code == "batches-missing"
    chunker.wired.renewal.look_after()
    assert chunker.wired.attempts.all() == []
    assert chunker.wired.attempts.all_reserved() == []


def test_parts_that_are_taken_together_are_those_that_nobody_has(site: CatalogSite) -> None:
    SnapshotTaker(site, MemoryStore(), KeyEncryptionKey.generate()).protect(TENANT, GROUP, *NAMES)
    view = open_on(site, GROUP)
    captures = [part.capture for part in view.parts]
    others = Worker(site, view, 1)
    taken = take_part(site.chunker, captures[0], BOOT, "chunker", 0, 0, "none", captures[1:])
    assert isinstance(taken, Taken)
    assert set(taken.with_it) == {captures[2]}
    assert isinstance(others.store(os.urandom(32)), int)
    again = take_part(site.chunker, captures[2], BOOT, "late", 0, 0, "none", captures[:2])
    assert isinstance(again, Taken)
    assert (again.number, again.with_it) == (2, {})
    assert take_part(site.chunker, UUID(int=9), BOOT, "late", 0, 0, "none", captures) == NotTaken(
        session_ended=True
    )


def test_a_shared_pack_is_pinned_for_those_who_are_current(site: CatalogSite) -> None:
    SnapshotTaker(site, MemoryStore(), KeyEncryptionKey.generate()).protect(TENANT, GROUP, *NAMES)
    view = open_on(site, GROUP)
    workers = [Worker(site, view, number) for number in range(3)]
    pack = workers[0].claim()
    assert isinstance(pack, PackRecord)
    workers[0].renew()
    take_part(site.chunker, workers[0].capture, BOOT, "late", 0, 0)
    registered = workers[0].register_for(pack, [one.attempt for one in workers[:2]], b"i" * 32)
    assert isinstance(registered, Registered)
    assert registered.current == {workers[1].attempt}
    assert site.sql("SELECT owner FROM pin") == [(workers[1].attempt,)]
    assert workers[1].finish({pack.pack_no: PackUse(entered=1)}) is False
