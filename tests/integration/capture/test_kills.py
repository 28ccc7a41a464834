"""kill -9 of each process in the middle of a backup, and what a client sees of it."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest

from deploy.local.process import LocalProcess, outer_environ
from deploy.local.servers.http_probe import answers
from libs.catalogdb.pool import Catalog
from libs.catalogdb.sessions.session import SessionView, open_session
from libs.errors import UnavailableError
from libs.events.snapshots import SnapshotSealed
from libs.events.topics import SNAPSHOTS
from libs.ids import uuid7
from libs.kafka.consumer import EventConsumer, ReceivedEvent
from tests.support.running import TENANT, Answer, RunningSite, eventually

MIB = 1 << 20
_SOURCE = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def whole_again(site: RunningSite) -> Iterator[None]:
    """A failed test leaves no dead process to the next one. No other test leaves any."""
    yield
    assert site.heal() == []


def changed(site: RunningSite, name: str, size_bytes: int = 48 * MIB) -> Path:
    """A volume with a snapshot that has changed from end to end since."""
    path = site.volume(name, MIB)
    taken = site.take(name)
    assert taken["state"] == "sealed", taken
    path.write_bytes(os.urandom(size_bytes))
    return path


def begin_and_reach_the_middle(site: RunningSite, name: str) -> UUID:
    """Begin a snapshot; returns when a chunker fills its first pack."""
    session = site.begin(name)
    eventually(
        "a chunker stores the first chunks",
        lambda: site.sql(
            "SELECT 1 FROM pack JOIN attempt USING (attempt) WHERE session = %s", session
        ),
    )
    return session


def end_whatever_answers(site: RunningSite, session: UUID) -> Answer:
    """How the session ended, for a client that asks again while nobody answers."""

    def answer() -> Answer | None:
        try:
            found = site.session(session, wait_seconds=1)
        except UnavailableError:
            return None
        return found if found["state"] != "open" else None

    ended = eventually("the session ends", answer)
    assert ended is not None
    return ended


def is_open(site: RunningSite, session: UUID) -> bool:
    return bool(site.sql("SELECT 1 FROM session WHERE session = %s AND state = 'o'", session))


def let_the_deadline_pass(site: RunningSite, session: UUID) -> Answer:
    """How the session ended of which nothing has come for too long."""

    def ended() -> Answer | None:
        # Again and again: what the agent reads meanwhile is progress, and moves the deadline.
        site.sql(
            """UPDATE session SET deadline = now() - interval '1 minute'
               WHERE session = %s RETURNING 1""",
            session,
        )
        answer = site.session(session)
        return answer if answer["state"] != "open" else None

    answer = eventually("whoever asks ends it", ended, 30)
    assert answer is not None
    return answer


def assert_next_one_is_good(site: RunningSite, name: str, path: Path) -> None:
    taken = site.take(name)
    assert taken["state"] == "sealed", taken
    assert site.matches(name, path)


def test_a_killed_chunker_is_taken_over_by_the_next_one(site: RunningSite) -> None:
    path = changed(site, "chunker-killed")
    session = begin_and_reach_the_middle(site, "chunker-killed")
    site.kill("chunker")
    assert is_open(site, session)
    site.start("chunker")
    ended = site.end(session)
    assert ended["state"] == "sealed", ended
    assert ended["parts"][0]["attempts"] == 2
    assert site.matches("chunker-killed", path)


@contextmanager
def second_chunker(site: RunningSite) -> Iterator[LocalProcess]:
    """Another chunker on another port."""
    first, home = site.service("chunker"), site.cluster.home
    listen = f"127.0.0.1:{home.port('chunker-2')}"
    names = {"BACKCAST_CHUNKER_LISTEN": listen, "BACKCAST_CHUNKER_NAME": "second"}
    process = LocalProcess(home, "chunker-2")
    process.start(first.argv, {**first.environ, **names}, folder=_SOURCE)
    try:
        process.wait_ready(lambda: answers(f"http://{listen}/readyz"), 30)
        yield process
    finally:
        process.stop()


def test_two_chunkers_share_the_volumes_and_one_of_them_may_die(site: RunningSite) -> None:
    names = [f"shared-{number}" for number in range(8)]
    paths = {name: changed(site, name, 8 * MIB) for name in names}
    with second_chunker(site) as second:

        def shared() -> bool:
            for name in names:
                site.volume(name, 8 * MIB, seed=os.getpid())
            sessions = [site.begin(name) for name in names]
            assert all(site.end(session)["state"] == "sealed" for session in sessions)
            taken = site.sql(
                "SELECT DISTINCT chunker FROM attempt WHERE session = ANY(%s)", sessions
            )
            return len(taken) == 2

        eventually("both chunkers have partitions", shared, 60)
        for path in paths.values():
            path.write_bytes(os.urandom(8 * MIB))
        sessions = [site.begin(name) for name in names]
        second.stop(signal.SIGKILL)
        for session in sessions:
            ended = site.end(session)
            assert ended["state"] == "sealed", ended
    for name, path in paths.items():
        assert site.matches(name, path)


def test_a_killed_agent_ends_the_session_at_once(site: RunningSite) -> None:
    path = changed(site, "agent-killed", 192 * MIB)
    session = begin_and_reach_the_middle(site, "agent-killed")
    site.kill("agent")
    ended = end_whatever_answers(site, session)
    assert ended["state"] == "rejected"
    assert ended["code"] in ("unavailable", "agent-restarted")
    assert "agent" in ended["message"]
    refused = site.end(site.begin("agent-killed"))
    assert refused["code"] == "unavailable"
    site.start("agent")
    assert_next_one_is_good(site, "agent-killed", path)


def test_an_agent_that_is_restarted_before_a_chunker_looked_rejects(site: RunningSite) -> None:
    path = changed(site, "agent-restarted")
    site.kill("chunker")
    session = site.begin("agent-restarted")
    capture = site.sql("SELECT capture FROM part WHERE session = %s", session)[0][0]
    eventually("the agent has published all", lambda: site.capture_state(capture) == "complete")
    site.kill("agent")
    site.start("agent")
    # The coordinator orders it again, as no chunker has taken the part: now two have begun it.
    eventually("the agent begins again", lambda: site.capture_state(capture), 30)
    site.start("chunker")
    ended = site.end(session)
    assert ended["code"] in ("agent-restarted", "source")  # from the events, or from the agent
    assert "restarted" in ended["message"]
    assert_next_one_is_good(site, "agent-restarted", path)


def test_a_full_window_waits_for_a_chunker_and_is_freed_by_the_deadline(site: RunningSite) -> None:
    # More than the six spans of 32 MiB that an agent's window has, however they are filled.
    size = 224 * MIB
    big, small = changed(site, "window-filler", size), changed(site, "bystander", 8 * MIB)
    site.kill("chunker")
    session = site.begin("window-filler")
    bystander = site.begin("bystander")
    eventually(
        "the agent has read as much as its window holds",
        lambda: site.session(session)["parts"][0]["read_bytes"] >= 80 * MIB,
    )
    assert is_open(site, session)
    rejected = let_the_deadline_pass(site, session)
    assert rejected["code"] == "deadline"
    assert "waited for a chunker" in rejected["message"]
    assert rejected["parts"][0]["read_bytes"] < size
    site.start("chunker")
    assert site.end(bystander)["state"] == "sealed"
    assert site.matches("bystander", small)
    assert_next_one_is_good(site, "window-filler", big)


def test_a_session_past_its_deadline_ends_although_the_catalog_service_is_down(
    site: RunningSite,
) -> None:
    path = changed(site, "nobody-keeps-house", 8 * MIB)
    site.kill("chunker")
    site.kill("catalog")
    session = site.begin("nobody-keeps-house")
    rejected = let_the_deadline_pass(site, session)
    assert rejected["code"] == "deadline"
    assert "Kafka" in rejected["message"]
    site.start("catalog")
    site.start("chunker")
    assert_next_one_is_good(site, "nobody-keeps-house", path)


def test_a_killed_coordinator_finds_the_session_again(site: RunningSite) -> None:
    path = changed(site, "coordinator-killed")
    session = begin_and_reach_the_middle(site, "coordinator-killed")
    site.kill("coordinator")
    with pytest.raises(UnavailableError):
        site.session(session)
    site.start("coordinator")
    ended = end_whatever_answers(site, session)
    assert ended["state"] == "sealed", ended
    assert site.matches("coordinator-killed", path)


def test_a_session_that_was_opened_but_never_ordered_is_ordered(site: RunningSite) -> None:
    """What a coordinator leaves that is killed between the two."""
    path = changed(site, "never-ordered", 8 * MIB)
    dsn = site.cluster.postgres.dsn_of(
        "coordinator", site.cluster.home.secret("postgres-coordinator-password")
    )
    catalog = Catalog(dsn)
    catalog.open()
    with contextlib.closing(catalog):
        opened = open_session(catalog, TENANT, "never-ordered", uuid7(), 120.0)
    assert isinstance(opened, SessionView)
    assert site.end(opened.session)["state"] == "sealed"
    assert site.matches("never-ordered", path)


def test_a_killed_relay_publishes_everything_later_in_order(site: RunningSite) -> None:
    path = changed(site, "relay-killed")
    session = begin_and_reach_the_middle(site, "relay-killed")
    site.kill("catalog")
    assert site.end(session)["state"] == "sealed"
    site.start("catalog")
    events = asyncio.run(_snapshot_events(site, session))
    positions = [event.envelope.position for event in events]
    fresh = list(dict.fromkeys(positions))  # at least once: an event may come again
    assert fresh == list(range(1, len(fresh) + 1))
    assert site.matches("relay-killed", path)


async def _snapshot_events(site: RunningSite, session: UUID) -> list[ReceivedEvent]:
    """Everything on `backcast.snapshots` up to the event that seals the session."""
    settings = site.cluster.kafka.client_settings
    found: list[ReceivedEvent] = []
    async with EventConsumer(settings, [SNAPSHOTS], group=None) as consumer, asyncio.timeout(60):
        while True:
            for delivery in await consumer.batch(1):
                assert isinstance(delivery, ReceivedEvent)
                found.append(delivery)
                event = delivery.event
                if isinstance(event, SnapshotSealed) and event.session == session:
                    return found


@pytest.mark.parametrize("server", ["postgres", "minio"])
def test_a_killed_server_that_comes_back_is_waited_for(site: RunningSite, server: str) -> None:
    path = changed(site, f"{server}-killed")
    session = begin_and_reach_the_middle(site, f"{server}-killed")
    site.kill(server)
    site.start(server)
    ended = end_whatever_answers(site, session)
    assert ended["state"] == "sealed", ended
    assert site.matches(f"{server}-killed", path)


def test_a_killed_kafka_loses_nothing_that_was_sealed(site: RunningSite) -> None:
    path = changed(site, "kafka-killed")
    session = begin_and_reach_the_middle(site, "kafka-killed")
    site.kill("kafka")
    site.start("kafka")
    ended = end_whatever_answers(site, session)
    assert ended["state"] == "sealed" or ended["code"] in ("unavailable", "batches-missing")
    assert_next_one_is_good(site, "kafka-killed", path)


@pytest.mark.parametrize(
    ("service", "key", "exit_code", "says"),
    [
        ("chunker", None, 11, "KEK_FILE"),
        ("chunker", "no key at all", 11, "64 hexadecimal characters"),
        ("chunker", "ab" * 32, 7, "expected the key-encryption key"),
        ("coordinator", "ab" * 32, 7, "give the right key file"),
    ],
)
def test_a_service_with_a_wrong_or_missing_key_does_not_start(
    site: RunningSite, tmp_path: Path, service: str, key: str | None, exit_code: int, says: str
) -> None:
    changed(site, f"with-key-{service}")  # so that the bucket has keys
    path = tmp_path / "kek"
    if key is not None:
        path.write_text(key)
    server = site.service(service)
    name = f"BACKCAST_{service.upper()}"
    changes = {f"{name}_KEK_FILE": str(path), f"{name}_LISTEN": "127.0.0.1:0"}
    ended = subprocess.run(
        server.argv,
        env={**outer_environ(), **server.environ, **changes},
        cwd=_SOURCE,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == exit_code, ended.stderr
    assert says in ended.stderr + ended.stdout
    if key:
        assert key not in ended.stderr + ended.stdout
