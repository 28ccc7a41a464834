"""Records on block-changes that no honest agent writes; the test is the agent, with its token."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from urllib.request import urlopen
from uuid import UUID, uuid4

import pytest

from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import add_volume, list_nodes
from libs.catalogdb.sessions.folding import fold_sessions
from libs.catalogdb.sessions.session import PartView, SessionView, open_session
from libs.events.batches import BatchesDigest
from libs.events.block_changes import (
    CaptureAborted,
    CaptureCompleted,
    CaptureStarted,
    ExtentsChanged,
)
from libs.events.codec import EVENT_SIZE_BYTES_MAX, encode
from libs.events.envelope import Envelope, Header
from libs.events.mac import event_mac
from libs.events.record import to_record
from libs.events.registry import REGISTRY, Event
from libs.events.topics import BLOCK_CHANGES
from libs.ids import uuid7
from libs.kafka.clients import producer
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ChunkRun, pack_runs
from tests.support.pausing import paused
from tests.support.running import TENANT, Answer, RunningSite, eventually

CHUNKS = 16


class WrittenSession:
    """An open session whose only volume is captured by the test, event by event.

    Args:
        site: the cluster; its coordinator is stopped, or it would order the real agent to capture.
        catalog: the catalog.
        volume_name: a new volume, or that of a session that ended.
    """

    def __init__(self, site: RunningSite, catalog: Catalog, volume_name: str) -> None:
        self._catalog = catalog
        node = list_nodes(catalog)[0].name
        add_volume(catalog, TENANT, volume_name, volume_name, node, f"/nowhere/{volume_name}")
        view = open_session(catalog, TENANT, volume_name, uuid7(), 120.0)
        assert isinstance(view, SessionView)
        self.view = view
        self.part: PartView = view.parts[0]
        self._site = site
        self._digest = BatchesDigest()

    def again(self) -> "WrittenSession":
        """The next session of the same volume."""
        return WrittenSession(self._site, self._catalog, self.part.volume_name)

    def started(self, **changes: object) -> CaptureStarted:
        honest = CaptureStarted(
            session=self.view.session,
            capture=self.part.capture,
            tenant=TENANT,
            group=self.view.group_id,
            volume=self.part.volume,
            node=self.part.node,
            base=None,
            boot=UUID(int=1),
            complete=True,
            tracking="none",
            volume_size_bytes=CHUNKS * CHUNK_SIZE_BYTES,
            chunk_size_bytes=CHUNK_SIZE_BYTES,
        )
        return replace(honest, **changes)  # type: ignore[arg-type]  # fields of the class

    def batch(self, number: int, first: int = 0, count: int = 1) -> ExtentsChanged:
        """Zeros only, so that nobody needs to be asked for bytes."""
        event = ExtentsChanged(
            session=self.view.session,
            capture=self.part.capture,
            volume=self.part.volume,
            batch=number,
            runs=b"",
            ids=b"",
            zero_runs=pack_runs([ChunkRun(first, count)]),
            settled_below=0,
        )
        if number == self._digest.count:
            self._digest.add(encode(event))
        return event

    def completed(self, **changes: object) -> CaptureCompleted:
        honest = CaptureCompleted(
            session=self.view.session,
            capture=self.part.capture,
            volume=self.part.volume,
            batches=self._digest.count,
            batches_digest=self._digest.digest(),
            read_bytes=0,
            changed_bytes=0,
            consistency="quiet",
            seconds=0.0,
        )
        return replace(honest, **changes)  # type: ignore[arg-type]  # fields of the class

    def aborted(self) -> CaptureAborted:
        return CaptureAborted(
            session=self.view.session,
            capture=self.part.capture,
            volume=self.part.volume,
            code="source",
            message="the disk is gone",
        )

    def send(self, *events: Event, token: bytes | None = None, tenant: str = TENANT) -> None:
        """Publish events to the volume's partition, authenticated as an agent does."""
        records = []
        for event in events:
            value = encode(event)
            name, version = REGISTRY.wire_of(type(event))
            envelope = Envelope(
                event_id=uuid7(),
                type=name,
                version=version,
                source="agent/test",
                subject=str(self.part.volume),
                tenant=tenant,
                occurred_at=datetime.now(UTC),
            )
            mac = event_mac(token or self.part.token, envelope, value)
            record = to_record(replace(envelope, mac=mac), value)
            records.append((value, record.headers))
        self.send_raw(*records)

    def send_raw(self, *records: tuple[bytes | None, Sequence[Header]]) -> None:
        """Publish anything to the volume's partition."""
        asyncio.run(_produce(self._site, str(self.part.volume).encode(), records))

    def end(self) -> Answer:
        """How the session ended."""
        rows = eventually(
            f"session {self.view.session} ends",
            lambda: self._site.sql(
                "SELECT state::text, reject_code, reject_message FROM session "
                "WHERE session = %s AND state <> 'o'",
                self.view.session,
            ),
            seconds=30,
        )
        state, code, message = rows[0]
        return {"sealed": state == "s", "code": code, "message": message}


async def _produce(
    site: RunningSite, key: bytes, records: Sequence[tuple[bytes | None, Sequence[Header]]]
) -> None:
    client = producer(site.cluster.kafka.client_settings)
    await client.start()
    try:
        for value, headers in records:
            await client.send_and_wait(BLOCK_CHANGES, value=value, key=key, headers=list(headers))
    finally:
        await client.stop()


@pytest.fixture(scope="module")
def catalog(site: RunningSite) -> Iterator[Catalog]:
    """The catalog in the coordinator's role, while the coordinator itself is stopped."""
    path = site.volume("before-events", 1 << 20)  # makes the tenant
    assert site.take("before-events")["state"] == "sealed"
    home = site.cluster.home
    dsn = site.cluster.postgres.dsn_of("coordinator", home.secret("postgres-coordinator-password"))
    pool = Catalog(dsn)
    pool.open()
    coordinator = site.server("coordinator").process.pid
    assert coordinator is not None
    with contextlib.closing(pool), paused(coordinator):
        yield pool
    assert site.take("before-events")["state"] == "sealed"
    assert site.matches("before-events", path)


@pytest.fixture
def keeper(site: RunningSite) -> Iterator[Catalog]:
    """The catalog in the role of its own service, which folds."""
    secret = site.cluster.home.secret("postgres-catalog-password")
    pool = Catalog(site.cluster.postgres.dsn_of("catalog", secret))
    pool.open()
    with contextlib.closing(pool):
        yield pool


@pytest.fixture
def written(site: RunningSite, catalog: Catalog) -> WrittenSession:
    return WrittenSession(site, catalog, f"written-{uuid4().hex[:8]}")


@pytest.fixture
def refused(site: RunningSite) -> Callable[[str], int]:
    """Counts records that the chunker refused since the test began, by the code of the reason."""

    def count(code: str) -> int:
        line = f'backcast_chunker_refused_events_total{{code="{code}"}} '
        with urlopen(f"http://{site.service('chunker').address}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return int(sum(float(one.removeprefix(line)) for one in lines if one.startswith(line)))

    before = {kind: count(kind) for kind in ("malformed-event", "unknown-event", "oversized-event")}
    return lambda kind: count(kind) - before[kind]


def test_zeros_only_are_sealed(written: WrittenSession) -> None:
    written.send(written.started(), written.batch(0), written.batch(1, 8), written.completed())
    assert written.end()["sealed"]


def test_replayed_events_change_nothing(written: WrittenSession) -> None:
    started, first, second = written.started(), written.batch(0), written.batch(1, 8)
    written.send(started, first, first, started, second, first, second, written.completed())
    assert written.end()["sealed"]


def test_a_missing_batch_rejects(written: WrittenSession) -> None:
    written.send(written.started(), written.batch(0), written.batch(2))
    ended = written.end()
    assert ended["code"] == "batches-missing"
    assert "batch 1 never came" in ended["message"]


@pytest.mark.parametrize("change", [{"batches": 2}, {"batches_digest": bytes(32)}])
def test_a_completion_for_other_batches_rejects(
    written: WrittenSession, change: dict[str, object]
) -> None:
    written.send(written.started(), written.batch(0), written.completed(**change))
    assert written.end()["code"] == "batches-missing"


def test_the_agents_abort_rejects_with_its_reason(written: WrittenSession) -> None:
    written.send(written.started(), written.aborted())
    ended = written.end()
    assert ended["code"] == "source"
    assert "the disk is gone" in ended["message"]


def test_two_processes_of_the_agent_never_mix(written: WrittenSession) -> None:
    written.send(written.started(), written.batch(0), written.started(boot=UUID(int=2)))
    assert written.end()["code"] == "agent-restarted"


@pytest.mark.parametrize(
    "change",
    [{"volume": UUID(int=3)}, {"node": "elsewhere"}, {"base": UUID(int=4)}, {"complete": False}],
)
def test_a_capture_of_something_else_than_was_ordered_rejects(
    written: WrittenSession, change: dict[str, object]
) -> None:
    written.send(written.started(**change))
    assert written.end()["code"] == "capture-mismatch"


def test_an_absurd_size_costs_nothing(written: WrittenSession) -> None:
    last_chunk = 2**63 // CHUNK_SIZE_BYTES - 1
    started = written.started(volume_size_bytes=2**63 - 1)
    written.send(started, written.batch(0, last_chunk), written.completed())
    assert written.end()["sealed"]


def test_chunks_beyond_the_volume_reject(written: WrittenSession) -> None:
    written.send(written.started(), written.batch(0, CHUNKS, 1))
    assert written.end()["code"] == "bad-input"


def test_events_that_nobody_authenticated_are_counted_and_change_nothing(
    written: WrittenSession, refused: Callable[[str], int]
) -> None:
    written.send(written.started())
    written.send(written.aborted(), written.batch(0), written.batch(7), token=bytes(32))
    written.send(written.aborted(), tenant="somebody")
    written.send(written.completed(batches=0, batches_digest=BatchesDigest().digest()))
    assert written.end()["sealed"]
    assert refused("malformed-event") == 4


def test_a_capture_that_nobody_asked_for_is_counted(
    written: WrittenSession, refused: Callable[[str], int]
) -> None:
    written.send(written.started(capture=uuid4()))
    written.send(written.started(), written.completed())
    assert written.end()["sealed"]
    assert refused("malformed-event") == 1


def test_events_of_a_session_that_was_folded_are_passed_over(
    site: RunningSite, written: WrittenSession, refused: Callable[[str], int], keeper: Catalog
) -> None:
    """Scenario 15: nobody is left who could authenticate them, and they are not taken for new."""
    late = (written.started(), written.batch(0), written.completed())
    written.send(written.started(), written.aborted())
    assert not written.end()["sealed"]
    after = written.again()
    after.send(after.started(), after.completed())
    assert after.end()["sealed"]
    fold_sessions(keeper, 0, 1000)
    session = written.view.session
    assert site.sql("SELECT session FROM past WHERE session = %s", session) == [(session,)]
    assert site.sql("SELECT FROM session WHERE session = %s", session) == []
    written.send(*late)
    last = written.again()
    last.send(last.started(), last.completed())  # in the same partition, behind them
    assert last.end()["sealed"]
    assert refused("malformed-event") == 0


def test_what_is_no_event_is_counted_and_the_partition_goes_on(
    written: WrittenSession, refused: Callable[[str], int]
) -> None:
    value = encode(written.batch(0))
    name, version = REGISTRY.wire_of(ExtentsChanged)
    envelope = Envelope(
        event_id=uuid7(),
        type=name,
        version=version,
        source="agent/test",
        subject=str(written.part.volume),
        tenant=TENANT,
        occurred_at=datetime.now(UTC),
    )
    headers = to_record(envelope, value).headers
    unknown = to_record(envelope, value).headers
    written.send(written.started())
    written.send_raw(
        (b"\xc1 not msgpack", headers),
        (value[:-1], headers),
        (value + b"\0", headers),
        (b"", headers),
        (None, headers),
        (value, ()),
        (value, (("content-type", b"\xff"),)),
        (value, _with(unknown, "ce_type", b"backcast.block_changes.unheard_of")),
        (value, _with(unknown, "ce_dataversion", b"99")),
        (bytes(EVENT_SIZE_BYTES_MAX + 1), headers),
    )
    written.send(written.batch(0), written.completed())
    assert written.end()["sealed"]
    assert refused("unknown-event") == 2
    assert refused("oversized-event") == 1
    assert refused("malformed-event") == 7


def test_a_flood_of_bad_records_raises_one_notification(
    site: RunningSite, written: WrittenSession, refused: Callable[[str], int]
) -> None:
    count = """SELECT count(*) FROM event_log
               WHERE topic = 'backcast.notifications' AND position(%s IN value) > 0"""
    before = site.sql(count, b"malformed-event")[0][0]
    written.send(written.started())
    written.send_raw(*[(b"\xc1 not msgpack", ())] * 50)
    written.send(written.completed(batches=0, batches_digest=BatchesDigest().digest()))
    assert written.end()["sealed"]
    assert refused("malformed-event") == 50
    assert site.sql(count, b"malformed-event")[0][0] - before <= 1


def _with(headers: Sequence[Header], name: str, value: bytes) -> list[Header]:
    return [(key, value if key == name else old) for key, old in headers]
