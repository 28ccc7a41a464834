"""Whole backups and restores while servers and networks fail in every way that proxies can play.

Each case: a snapshot is taken while the fault strikes; it is sealed, or rejected where the fault
cannot be waited out; the next one is sealed; every acknowledged one restores byte for byte.
"""

import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from libs.errors import BackcastError
from tests.faults.proxies.link import (
    AnswerLost,
    ConnectionLost,
    CutOffAnswer,
    CutOffRequest,
    Delayed,
    DeliveredTwice,
    Fault,
    Trigger,
)
from tests.faults.proxies.postgres import TransactionRefused
from tests.faults.proxies.s3 import ServerError, WrongBody
from tests.faults.site import SECOND_CHUNKER, FaultSite
from tests.faults.volumes import AttackedVolume
from tests.support.running import eventually

MIB = 1 << 20
_SEED = 20261122


@dataclass(frozen=True)
class Case:
    """A fault on the way of a backup."""

    proxy: str
    fault: Callable[[], Fault]
    #: Codes that the session may be rejected with; sealed is always right.
    rejects: tuple[str, ...] = ()
    #: Whether the chunkers are new: they remember no node of the base, and must read some.
    reads_base: bool = False


_PACK, _MANIFEST, _BASE = "PUT packs/", "PUT manifests/", "chunker.* GET packs/"
_EVENTS, _CHUNKER = "agent produce backcast.block", "chunker.* COMMIT"
#: What the fourth commit of a chunker is depends on timing; each of the first eight is struck.
_COMMITS = range(1, 9)

BACKUPS = {
    "pack refused by 500 twice": Case("s3_proxy", lambda: ServerError(_PACK, count=2)),
    "pack refused by 503 thrice": Case("s3_proxy", lambda: ServerError(_PACK, 1, 3, 503)),
    "store full": Case("s3_proxy", lambda: ServerError(_PACK, 1, 1, 507), ("out-of-space",)),
    "store full at the manifest": Case(
        "s3_proxy", lambda: ServerError(_MANIFEST, 1, 1, 507), ("out-of-space",)
    ),
    "pack never arrives": Case("s3_proxy", lambda: ConnectionLost(_PACK, count=2)),
    "pack arrives by half": Case("s3_proxy", lambda: CutOffRequest(_PACK, count=2)),
    "pack stored, answer lost": Case("s3_proxy", lambda: AnswerLost(_PACK, count=2)),
    "pack stored twice": Case("s3_proxy", lambda: DeliveredTwice(_PACK)),
    "pack slow": Case("s3_proxy", lambda: Delayed(_PACK, seconds=2)),
    "manifest refused by 500": Case("s3_proxy", lambda: ServerError(_MANIFEST, count=2)),
    "manifest stored, answer lost": Case("s3_proxy", lambda: AnswerLost(_MANIFEST)),
    "manifest never arrives": Case("s3_proxy", lambda: ConnectionLost(_MANIFEST)),
    "base's node cut off": Case("s3_proxy", lambda: CutOffAnswer(_BASE), reads_base=True),
    "base's node damaged on the way": Case(
        "s3_proxy", lambda: WrongBody(_BASE), ("damaged-data",), reads_base=True
    ),
    "base's node refused": Case("s3_proxy", lambda: ServerError(_BASE, count=2), reads_base=True),
    **{
        f"{kind.__name__} at the agent's produce": Case("kafka_proxy", lambda k=kind: k(_EVENTS))
        for kind in (ConnectionLost, AnswerLost, DeliveredTwice, Delayed)
    },
    "relay's answers lost": Case("kafka_proxy", lambda: AnswerLost("catalog produce", count=3)),
    "fetches lost": Case("kafka_proxy", lambda: ConnectionLost("chunker.* fetch", count=3)),
    "fetches cut off": Case("kafka_proxy", lambda: CutOffAnswer("chunker.* fetch", count=2)),
    "heartbeats lost": Case("kafka_proxy", lambda: ConnectionLost("heartbeat", count=3)),
    **{
        f"{kind.__name__} at commit {nth} of a chunker": Case(
            "postgres_proxy", lambda k=kind, n=nth: k(_CHUNKER, n)
        )
        for kind in (ConnectionLost, AnswerLost, TransactionRefused)
        for nth in _COMMITS
    },
    **{
        f"commits of everybody refused by {state}": Case(
            "postgres_proxy", lambda s=state: TransactionRefused("COMMIT", 3, 5, s)
        )
        for state in ("40001", "40P01", "57P01", "25006")
    },
    "catalog's disk full": Case(
        "postgres_proxy",
        lambda: TransactionRefused(_CHUNKER, 4, 1, "53100"),
        ("out-of-space",),
    ),
    "opening lost": Case("postgres_proxy", lambda: ConnectionLost("coordinator COMMIT", 2)),
    "opened, answer lost": Case("postgres_proxy", lambda: AnswerLost("coordinator COMMIT", 2, 4)),
    "span never asked for": Case("span_proxy", lambda: ConnectionLost("want", count=2)),
    "span asked for by half": Case("span_proxy", lambda: CutOffRequest("want")),
    "span sent, nothing arrives": Case("span_proxy", lambda: AnswerLost("want", count=2)),
    "span arrives by half": Case("span_proxy", lambda: CutOffAnswer("want|reread", count=3)),
    "span's chunker is not greeted": Case("span_proxy", lambda: AnswerLost("hello", count=2)),
    "span slow": Case("span_proxy", lambda: Delayed("want", seconds=2)),
}
#: In a sample: one of each proxy and kind of end.
_SAMPLE = (
    "pack stored, answer lost",
    "store full",
    "AnswerLost at the agent's produce",
    "AnswerLost at commit 4 of a chunker",
    "commits of everybody refused by 25006",
    "span arrives by half",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backup" in metafunc.fixturenames:
        is_sample = metafunc.config.getoption("--scale") == "sample"
        names = _SAMPLE if is_sample else tuple(BACKUPS)
        metafunc.parametrize("backup", names)


@pytest.fixture(scope="module")
def volumes(site: FaultSite) -> list[AttackedVolume]:
    """One of a single span, and one whose changes fill several."""
    rng = random.Random(_SEED)
    made = [AttackedVolume(site, f"volume-{n}", size * MIB, rng) for n, size in enumerate((3, 36))]
    assert all(volume.take() for volume in made)
    return made


def test_backups_survive(site: FaultSite, volumes: list[AttackedVolume], backup: str) -> None:
    case = BACKUPS[backup]
    volume = volumes[case.proxy in ("span_proxy", "kafka_proxy")]  # several batches
    volume.change(0.6)
    volume.refusals.clear()
    if case.reads_base:
        for chunker in ("chunker", SECOND_CHUNKER):
            assert site.kill_now(chunker, signal.SIGTERM)
        site.wait_all_up()
    begun = time.monotonic()
    with getattr(site.proxied, case.proxy).striking(case.fault()) as fault:
        sealed = volume.take()
        assert fault.struck.wait(10), "the fault found nothing to strike"
    assert sealed or set(volume.refusals) <= set(case.rejects), volume.refusals
    volume.change(0.1)
    assert volume.take(), f"the next attempt fails: {volume.refusals}"
    sequences = volume.sealed()
    assert volume.acknowledged.keys() <= sequences.keys()
    newest = max(sequences, key=lambda session: sequences[session])
    assert volume.restores("latest", volume.asked[newest])
    print(f"{backup}: {'sealed' if sealed else 'rejected'}, {time.monotonic() - begun:.1f} s")


RESTORES = {
    "pack refused": Case("s3_proxy", lambda: ServerError("client GET packs/", count=2)),
    "pack lost": Case("s3_proxy", lambda: ConnectionLost("client GET packs/", count=2)),
    "pack cut off": Case("s3_proxy", lambda: CutOffAnswer("client GET packs/", count=2)),
    "pack slow": Case("s3_proxy", lambda: Delayed("client GET packs/", seconds=1)),
    "pack damaged": Case("s3_proxy", lambda: WrongBody("client GET packs/"), ("damaged-data",)),
    "node damaged": Case("s3_proxy", lambda: WrongBody("restore GET packs/"), ("damaged-data",)),
    **{
        f"answer to commit {nth} of the service lost": Case(
            "postgres_proxy", lambda n=nth: AnswerLost("restore COMMIT", n)
        )
        for nth in (1, 2, 3, 4, 5)
    },
    "commits of the service refused": Case(
        "postgres_proxy", lambda: TransactionRefused("restore COMMIT", 2, 3)
    ),
}


@pytest.mark.parametrize("name", RESTORES)
def test_restores_give_right_bytes_or_none(
    site: FaultSite, volumes: list[AttackedVolume], name: str
) -> None:
    case, volume = RESTORES[name], volumes[0]
    volume.change()
    assert volume.take()
    newest = max(volume.sealed().items(), key=lambda item: item[1])[0]
    with getattr(site.proxied, case.proxy).striking(case.fault()) as fault:
        try:
            assert volume.restores("latest", volume.asked[newest])
        except BackcastError as err:
            assert err.code in case.rejects, err  # noqa: PT017 -- or it succeeded
        assert fault.struck.wait(10), "the fault found nothing to strike"
    assert volume.restores("latest", volume.asked[newest])


def end_all_backends(site: FaultSite) -> None:
    """A fail-over as clients see it: every connection ends at once with 57P01."""
    site.sql(
        """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
           WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"""
    )


def become_a_standby(site: FaultSite) -> None:
    """After a fail-over the old address leads to a server that refuses to write: 25006."""
    (site.cluster.home.data("postgres") / "cluster" / "standby.signal").touch()
    assert site.kill_now("postgres", signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize("point", [_PACK, _MANIFEST])
def test_a_fail_over_of_the_catalog_in_the_middle(
    site: FaultSite, volumes: list[AttackedVolume], point: str
) -> None:
    volume = volumes[0]
    volume.change()
    with site.proxied.s3_proxy.striking(
        Trigger(point, after=lambda _: end_all_backends(site))
    ) as f:
        assert volume.take(), volume.refusals
        assert f.struck.is_set()
    volume.assert_nothing_is_lost()


@pytest.mark.slow
def test_a_standby_that_is_promoted_in_the_middle_loses_nothing(
    site: FaultSite, volumes: list[AttackedVolume]
) -> None:
    """A promoted server may lack what was committed: no session goes on from before it."""
    volume = volumes[0]
    volume.change()
    volume.refusals.clear()

    def refusals() -> int:
        return sum(site.log(name).count("25006") for name in ("chunker", SECOND_CHUNKER))

    before = refusals()
    trigger = Trigger(_PACK, after=lambda _: become_a_standby(site))
    with site.proxied.s3_proxy.striking(trigger), ThreadPoolExecutor(1) as client:
        taking = client.submit(volume.take)
        eventually("a chunker is refused", lambda: refusals() > before)
        site.sql("SELECT pg_promote()")
        assert not taking.result()
    # Which it is depends on what the session waited for, and on how long the promotion took.
    assert set(volume.refusals) <= {"not-reconciled", "unavailable", "deadline"}
    eventually("the next attempt is sealed", volume.take)
    volume.assert_nothing_is_lost()


@pytest.mark.slow
def test_a_switch_that_reboots_cuts_every_connection(
    site: FaultSite, volumes: list[AttackedVolume]
) -> None:
    volume = volumes[1]
    volume.change(0.6)

    def cut(_: str) -> None:
        for proxy in site.proxied.proxies:
            proxy.cut_all()

    with site.proxied.s3_proxy.striking(Trigger(_PACK, before=cut)) as fault:
        assert volume.take(), volume.refusals
        assert fault.struck.is_set()
    volume.assert_nothing_is_lost()
