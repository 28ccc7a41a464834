"""Take-over in the middle: who works on a session changes, and it is sealed all the same, once."""

import asyncio
import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from uuid import UUID

import pytest

from deploy.local.services import _SERVICES, ServiceProcess
from libs.catalogdb.pool import Catalog
from libs.catalogdb.sessions.attempts import Taken, take_part
from libs.events.positions import follows
from libs.events.snapshots import SnapshotSealed
from libs.events.topics import SNAPSHOTS
from libs.kafka.consumer import EventConsumer, ReceivedEvent
from tests.faults.proxies.link import Trigger
from tests.faults.site import DEADLINE_SECONDS, SECOND_CHUNKER, FaultSite
from tests.faults.volumes import AttackedVolume
from tests.support.running import TENANT, eventually, sha256_of

MIB = 1 << 20
_PACK, _MANIFEST = "chunker.* PUT packs/", "chunker.* PUT manifests/"


@pytest.fixture(scope="module")
def volume(site: FaultSite) -> AttackedVolume:
    made = AttackedVolume(site, "taken-over", 40 * MIB, random.Random(7))
    assert made.take()
    made.change()
    return made


@contextmanager
def catalog_as_chunker(site: FaultSite) -> Iterator[Catalog]:
    home = site.cluster.home
    dsn = site.cluster.postgres.dsn_of("chunker", home.secret("postgres-chunker-password"))
    catalog = Catalog(dsn)
    catalog.open()
    with closing(catalog):
        yield catalog


def open_part(site: FaultSite) -> tuple[UUID, UUID, int, int]:
    """Capture, boot, partition and offset of the part that somebody works on now."""
    rows = site.sql(
        """SELECT capture, boot, partition, start_offset FROM part JOIN session s USING (session)
           WHERE s.state = 'o' AND part.state = 'c'"""
    )
    return rows[0]


def newest(site: FaultSite, name: str) -> tuple[str, float, int]:
    """State, seconds and attempts of a volume's newest session."""
    rows = site.sql(
        """SELECT s.state::text, extract(epoch FROM s.ended_at - s.opened_at)::float8,
                  p.attempt_number
           FROM session s JOIN part p USING (session) JOIN volume v USING (volume_no)
           WHERE v.name = %s ORDER BY s.opened_at DESC LIMIT 1""",
        name,
    )
    return rows[0]


@pytest.mark.parametrize("before", [True, False])
def test_a_part_taken_by_a_chunker_that_lost_its_partition_is_taken_again(
    site: FaultSite, volume: AttackedVolume, before: bool
) -> None:
    """It was about to take the part when the partition was revoked, and then does nothing."""
    volume.change()

    def take_it_away(_: str) -> None:
        with catalog_as_chunker(site) as catalog:
            capture, boot, partition, offset = open_part(site)
            assert isinstance(take_part(catalog, capture, boot, "late", partition, offset), Taken)

    moment = {"before" if before else "after": take_it_away}
    with site.proxied.s3_proxy.striking(Trigger(_PACK, **moment)) as trigger:
        assert volume.take(), volume.refusals
        assert trigger.struck.is_set()
    state, seconds, attempts = newest(site, volume.name)
    # The first, the late one, who has the partition; more, if a slow machine moves it again.
    assert state == "s"
    assert 3 <= attempts <= 5
    assert seconds < DEADLINE_SECONDS / 2
    assert volume.restores("latest", sha256_of(volume.path))


def test_chunkers_that_join_and_leave_all_the_time_lose_nothing(
    site: FaultSite, volume: AttackedVolume
) -> None:
    """Each start and each clean stop takes every partition away and gives it to somebody."""
    others = [AttackedVolume(site, f"joining-{n}", 6 * MIB, random.Random(n)) for n in range(3)]
    volumes = [volume, *others]
    stop = threading.Event()

    def take_all_the_time(one: AttackedVolume) -> int:
        sealed = 0
        while not stop.is_set():
            one.change()
            assert one.take(), one.refusals
            sealed += 1
        return sealed

    with ThreadPoolExecutor(len(volumes)) as clients:
        working = [clients.submit(take_all_the_time, one) for one in volumes]
        try:
            for name in (SECOND_CHUNKER, "chunker", SECOND_CHUNKER):
                assert site.kill_now(name, signal.SIGTERM)  # the supervisor starts it again
                eventually("it works", lambda n=name: site.up(n))
        finally:
            stop.set()
        assert all(one.result() for one in working)
    for one in volumes:
        one.assert_nothing_is_lost()


def test_a_group_on_several_chunkers_is_sealed_once_whoever_dies_at_its_manifest(
    site: FaultSite,
) -> None:
    """The one who finishes last seals (scenario 11); it dies just before, so its successor does."""
    rng = random.Random(11)
    paths = {}
    for number in range(6):
        path = site.folder / f"member-{number}"
        path.write_bytes(rng.randbytes(3 * MIB))
        body = {"name": path.name, "path": str(path), "group": "members"}
        site.coordinator.post(f"/v1/tenants/{TENANT}/volumes", body)
        paths[path.name] = path
    eventually("both chunkers have partitions", lambda: _shared(site), 60)
    for path in paths.values():
        path.write_bytes(rng.randbytes(3 * MIB))
    trigger = Trigger(_MANIFEST, before=site.kill_now)
    with site.proxied.s3_proxy.striking(trigger):
        session = site.begin("members")
        ended = site.end(session)
    assert trigger.struck.is_set()
    assert ended["state"] == "sealed", ended
    sealed = site.sql(
        """SELECT count(*) FROM event_log
           WHERE type LIKE '%%snapshot_sealed' AND correlation_id = %s""",
        session,
    )
    assert sealed == [(1,)]
    for name, path in paths.items():
        assert site.matches(name, path), name


def _shared(site: FaultSite) -> bool:
    session = site.begin("members")
    assert site.end(session)["state"] == "sealed"
    taken = site.sql("SELECT DISTINCT chunker FROM attempt WHERE session = %s", session)
    return len(taken) == 2


def test_two_relays_at_once_only_repeat_each_other(site: FaultSite, volume: AttackedVolume) -> None:
    home = site.cluster.home
    service = next(one for one in _SERVICES if one.name == "catalog")
    listen = {"BACKCAST_CATALOG_LISTEN": f"127.0.0.1:{home.port('catalog-2')}"}
    environ = {**site.service("catalog").environ, **listen}
    second = ServiceProcess(home, replace(service, name="catalog-2"), environ)
    second.spawn()
    try:
        second.wait_ready()
        for _ in range(4):
            volume.change(0.05)
            assert volume.take(), volume.refusals
    finally:
        second.stop()
    last_session = max(volume.acknowledged.items(), key=lambda item: item[1])[0]
    last = 0
    for event in asyncio.run(_snapshot_events(site, last_session)):
        position = event.envelope.position
        assert position is not None
        if position <= last:
            continue  # seen before: as every consumer does
        assert follows(last, position), f"{position} after {last}"
        last = position


async def _snapshot_events(site: FaultSite, session: UUID) -> list[ReceivedEvent]:
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
