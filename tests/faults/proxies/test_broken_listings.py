"""A real S3 server behind a proxy whose listings and 404s lie, while reconciling and sweeping.

Whatever the proxy answers: no pack is buried or deleted, whoever waits is told why, and when the
proxy is right again everything goes on and every snapshot restores.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
import pytest

from deploy.local.cluster import LocalCluster
from deploy.local.process import wait_until
from deploy.local.servers.s3 import S3Server
from libs.catalogdb.deletion.brake import Kind, read_halts
from libs.catalogdb.log.log import read_log
from libs.errors import BackcastError, HaltedError, UnavailableError
from libs.events.topics import NOTIFICATIONS
from libs.ids import new_generation
from libs.rest.connections import Origin
from libs.store.buckets import make_bucket
from libs.store.layout import MANIFESTS_PREFIX, PACKS_PREFIX, pack_object
from libs.store.port import ObjectStore
from libs.store.retrying import RetryingStore, RetryPolicy
from libs.store.s3 import S3Bucket, S3Store
from services.catalog.deletion.sweeper import Sweeper, SweepPolicy, SweepTally
from services.catalog.recovery.loop import RecoveryLoop
from tests.faults.proxies.link import Fault
from tests.faults.proxies.s3 import BrokenListing, Denied, S3Proxy
from tests.integration.catalog.recovery.timeline import Timeline, timeline

SERVERS = ("minio", "seaweedfs")
HOWS = ("no-token", "empty", "early-end", "again", "page")
#: From which listing on they are broken; there are some 270 in a pass of a reconciliation, of which
#: the first are those of checkpoints, keys and manifests, and 17 or more in a sweep.
RECONCILING = [(server, how, nth) for server in SERVERS for how in HOWS for nth in (1, 3, 40, 300)]
SWEEPING = [(server, how, nth) for server in SERVERS for how in HOWS for nth in (1, 2, 9)]
#: In a sample: each kind, and each server.
RECONCILING_SAMPLE = [
    ("minio", "no-token", 1),
    ("minio", "empty", 40),
    ("minio", "early-end", 300),
    ("minio", "again", 3),
    ("minio", "page", 40),
    ("seaweedfs", "early-end", 40),
]
SWEEPING_SAMPLE = [("minio", how, 2) for how in HOWS] + [("seaweedfs", "empty", 9)]
BUCKET = "broken-listings"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    is_sample = metafunc.config.getoption("--scale") == "sample"
    cases = {
        "reconciled": RECONCILING_SAMPLE if is_sample else RECONCILING,
        "swept": SWEEPING_SAMPLE if is_sample else SWEEPING,
    }
    for name in cases.keys() & set(metafunc.fixturenames):
        metafunc.parametrize(
            ("server", name),
            [(server, (how, nth)) for server, how, nth in cases[name]],
            indirect=["server"],
        )


@pytest.fixture
def server(request: pytest.FixtureRequest, servers: LocalCluster) -> S3Server:
    if getattr(request, "param", "minio") == "minio":
        return servers.s3
    started: S3Server = request.getfixturevalue("seaweedfs")
    return started


@pytest.fixture
def proxy(server: S3Server) -> Iterator[S3Proxy]:
    origin = Origin.parse(server.endpoint)
    made = S3Proxy(lambda: (origin.host, origin.port))
    yield made
    made.close()


@pytest.fixture
def line(servers: LocalCluster, server: S3Server, proxy: S3Proxy) -> Iterator[Timeline]:
    """Six snapshots of one pack each, in the one bucket: SeaweedFS has room for few."""
    where = S3Bucket(
        endpoint=f"http://127.0.0.1:{proxy.port}",
        bucket=BUCKET,
        access_key=server.access_key,
        secret_key=server.secret_key,
    )
    assert wait_until(lambda: answers(where), seconds=30)
    inner = S3Store(where, page_count=2)  # a listing goes through several pages
    for stat in list(inner.list("")):
        inner.delete(stat.key)
    store = RetryingStore(inner, RetryPolicy(attempts_max=3), sleep=lambda _: None)
    with timeline(servers.postgres.dsn, store) as made:
        made.protected.protect("disk")
        for number in range(1, 7):
            made.protected.take("disk", number)
        made.checkpoints.write()
        yield made
    inner.close()


def answers(bucket: S3Bucket) -> bool:
    try:
        make_bucket(bucket)
    except UnavailableError:
        return False
    return True


def objects(store: ObjectStore) -> list[str]:
    return [stat.key for prefix in (PACKS_PREFIX, MANIFESTS_PREFIX) for stat in store.list(prefix)]


def sweep(line: Timeline) -> SweepTally:
    return Sweeper(line.site.catalog, line.store, SweepPolicy(0, 60)).run()


def look(line: Timeline) -> RecoveryLoop:
    """What the catalog service does every second."""
    keeper = RecoveryLoop(line.site.catalog, line.checkpoints, line.reconciler())
    keeper.look(3600)
    return keeper


def goes_on(line: Timeline) -> None:
    look(line)
    assert line.live() == set(line.protected.live)
    line.protected.check()
    sweep(line)
    line.protected.collect()
    line.protected.check()
    line.protected.take("disk", 1, 7)
    line.protected.check()


def test_reconciling_buries_nothing(
    line: Timeline, proxy: S3Proxy, reconciled: tuple[str, int]
) -> None:
    how, nth = reconciled
    before, packs = objects(line.store), line.generations("l")
    line.go_back(line.dump())
    with proxy.striking(BrokenListing("LIST ", how, nth)) as fault, pytest.raises(BackcastError):
        look(line)
    assert fault.struck.is_set()
    assert objects(line.store) == before
    assert (line.generations("l"), line.generations("d")) == (packs, set())
    goes_on(line)


def test_a_sweep_deletes_nothing_that_is_needed(
    line: Timeline, proxy: S3Proxy, swept: tuple[str, int]
) -> None:
    how, nth = swept
    before = objects(line.store)
    orphan = pack_object(new_generation())
    line.store.put(orphan, b"orphan")
    tally = None
    with ExitStack() as broken:
        fault = broken.enter_context(proxy.striking(BrokenListing("LIST ", how, nth)))
        if how != "early-end":  # which no answer shows: then less is deleted, and nothing else
            broken.enter_context(pytest.raises(UnavailableError, match=r"whole listing|no S3 doc"))
        tally = sweep(line)
    assert fault.struck.is_set()
    assert set(objects(line.store)) >= set(before)
    line.site.sql(
        "UPDATE sweep SET after = '', swept_at = '-infinity', claimed_until = '-infinity'"
    )
    assert sweep(line).packs + (tally.packs if tally else 0) == 1
    assert objects(line.store) == before
    goes_on(line)


@pytest.mark.parametrize("code", ["", "NoSuchBucket"])
def test_a_404_that_does_not_mean_the_object_buries_nothing(
    line: Timeline, proxy: S3Proxy, code: str
) -> None:
    packs = line.generations("l")
    line.go_back(line.dump())
    denied = Denied("(HEAD|GET) packs/", code)
    with refusing(proxy, BrokenListing("LIST packs/", "early-end"), denied):
        with pytest.raises(BackcastError) as raised:
            look(line)
        assert not isinstance(raised.value, HaltedError)
    assert (line.generations("l"), line.generations("d")) == (packs, set())
    assert line.site.sql("SELECT FROM suspect") == []
    goes_on(line)


def test_a_replica_without_the_packs_waits_for_a_person(line: Timeline, proxy: S3Proxy) -> None:
    """It shows manifests and checkpoints, and says of every pack that there is none."""
    packs = line.generations("l")
    line.go_back(line.dump())
    denied = Denied("(HEAD|GET) packs/")
    with refusing(proxy, BrokenListing("LIST packs/", "early-end"), denied):
        for _ in range(2):
            with pytest.raises(HaltedError, match="none of them is given up"):
                look(line)
    assert (line.generations("l"), line.generations("d")) == (packs, set())
    (halt,) = read_halts(line.site.catalog)
    assert (halt.kind, halt.suspects.count) == (Kind.MISSING, len(packs))
    assert told(line).count("opened packs-missing") == 1
    goes_on(line)
    assert read_halts(line.site.catalog) == []
    assert told(line).count("resolved packs-missing") == 1


def refusing(proxy: S3Proxy, *faults: Fault) -> ExitStack:
    stack = ExitStack()
    for fault in faults:
        stack.enter_context(proxy.striking(fault))
    return stack


def told(line: Timeline) -> list[str]:
    events = read_log(line.site.catalog, NOTIFICATIONS, 0, 100)
    return [
        f"{event.envelope.type.rpartition('.')[2]} {msgspec.msgpack.decode(event.value)['about']}"
        for event in events
        if event.envelope.type != "backcast.notifications.raised"
    ]
