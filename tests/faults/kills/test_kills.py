"""kill -9 of every service and server at exact points, while clients back up, restore and expire.

Clients work on their volumes all the time. Bursts of kills strike them; a supervisor starts again
what ended. After each burst nobody is killed until each volume's next snapshot is acknowledged.

What must hold: no acknowledged snapshot is lost, no byte is wrong, the next attempt succeeds, and
nothing that the dead held stays held.
"""

import contextlib
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from deploy.local.process import wait_until
from libs.errors import BackcastError
from tests.faults.conftest import Scale
from tests.faults.kills.points import Point, plan
from tests.faults.site import FaultSite
from tests.faults.volumes import AttackedVolume
from tests.support.running import eventually

MIB = 1 << 20
_SEED = 4
_SIZES = (3 * MIB, 3 * MIB, 5 * MIB, 24 * MIB)
_BURST = 8
#: Clients give older snapshots up, and the collector deletes what only those held.
_KEPT_MIN = 4
#: A request that does not come within this time is not waited for; the kill then comes at random.
_POINT_SECONDS_MAX = 8
#: Where most of the site is down, nothing happens at which to kill: some of it may come back first.
_DOWN_COUNT_MAX = 1


@dataclass
class Figures:
    """What the run did."""

    kills: int = 0
    exact: int = 0
    victims: Counter[str] = field(default_factory=Counter)
    next_attempts: int = 0
    recovery_seconds: list[float] = field(default_factory=list)
    attempts: int = 0
    restores: int = 0
    expired: int = 0


class Attack:
    """Bursts of kills on a site whose clients keep working.

    Args:
        site: with a supervisor.
        volumes: each has one client.
        seed: of the order of kills.
    """

    def __init__(self, site: FaultSite, volumes: list[AttackedVolume], seed: int) -> None:
        self.site = site
        self.volumes = volumes
        self.rng = random.Random(seed)
        self.figures = Figures()
        self._threads = ThreadPoolExecutor(len(volumes))

    def run(self, kill_count: int) -> None:
        """Kill so often."""
        points = plan(self.rng, kill_count)
        while burst := list(islice(points, _BURST)):
            calm = threading.Event()
            clients = [self._threads.submit(self._work, volume, calm) for volume in self.volumes]
            try:
                for point, nth in burst:
                    self._kill_at(point, nth)
            finally:
                calm.set()
            last_kill = time.monotonic()
            for client in clients:
                client.result()
            self.site.wait_all_up()
            waiting = [self._threads.submit(self._expect_next, v, last_kill) for v in self.volumes]
            for client in waiting:
                client.result()
            print(f"{time.strftime('%X')} calm: {time.monotonic() - last_kill:.1f} s")

    def close(self) -> None:
        """End the clients."""
        self._threads.shutdown()

    def _kill_at(self, point: Point, nth: int) -> None:
        killed: list[str] = []

        def kill(name: str) -> None:
            if self.site.kill_now(name):
                killed.append(name)

        wait_until(lambda: self.site.down_count() <= _DOWN_COUNT_MAX, _POINT_SECONDS_MAX)
        proxy = getattr(self.site.proxied, point.proxy)
        with proxy.striking(point.trigger(nth, kill)) as trigger:
            exact = trigger.struck.wait(_POINT_SECONDS_MAX)
        if not killed:
            exact = False
            names = ["chunker", "agent", "coordinator", "catalog"]
            # One that does not run just now is started again in a moment.
            wait_until(lambda: kill(self.rng.choice(names)) or bool(killed), _POINT_SECONDS_MAX)
        print(f"{time.strftime('%X')} {point}, request {nth}: killed {killed}, exact {exact}")
        self.figures.kills += len(killed)
        self.figures.exact += exact
        self.figures.victims.update(killed)

    def _work(self, volume: AttackedVolume, calm: threading.Event) -> None:
        """A client under attack: what it is refused it may be refused, but never lied to."""
        while not calm.is_set():
            volume.change()
            self.figures.attempts += 1
            volume.take()
            if volume.acknowledged and volume.rng.random() < 0.5:
                self._restore_one(volume)
            if len(volume.acknowledged) > _KEPT_MIN and volume.rng.random() < 0.3:
                with contextlib.suppress(BackcastError):
                    volume.give_up_oldest()
                    self.figures.expired += 1

    def _restore_one(self, volume: AttackedVolume) -> None:
        session, sequence = volume.rng.choice(sorted(volume.acknowledged.items()))
        with contextlib.suppress(BackcastError):
            assert volume.restores(str(sequence), volume.asked[session])
            self.figures.restores += 1

    def _expect_next(self, volume: AttackedVolume, last_kill: float) -> None:
        volume.change()
        before = dict(volume.refusals)
        assert volume.take(), f"{volume.name}: the next attempt fails: {volume.refusals}, {before}"
        self.figures.next_attempts += 1
        self.figures.recovery_seconds.append(time.monotonic() - last_kill)


def test_nothing_acknowledged_is_lost_by_kills(
    site: FaultSite, scale: Scale, tally: Callable[..., None]
) -> None:
    wanted = scale.pick(sample=3, full=104, soak=1040)
    rng = random.Random(_SEED)
    volumes = [
        AttackedVolume(site, f"attacked-{number}", size, random.Random(rng.random()))
        for number, size in enumerate(_SIZES)
    ]
    assert all(volume.take() for volume in volumes)
    begun = time.monotonic()
    attack = Attack(site, volumes, _SEED)
    try:
        attack.run(wanted)
    finally:
        attack.close()
    figures = attack.figures
    snapshots = sum(volume.assert_nothing_is_lost() for volume in volumes)
    assert_nothing_is_held(site)
    refusals = sum((Counter(volume.refusals) for volume in volumes), Counter[str]())
    recovery = sorted(figures.recovery_seconds)
    tally(
        "kill -9 at exact points",
        seed=_SEED,
        kills=figures.kills,
        at_the_exact_point=figures.exact,
        victims=str(dict(figures.victims.most_common())),
        attempts_under_attack=figures.attempts,
        refused=str(dict(refusals)),
        acknowledged_restored_and_right=snapshots,
        restores_under_attack=figures.restores,
        expired_under_attack=figures.expired,
        next_attempts_all_succeeded=figures.next_attempts,
        recovery_seconds_p50=round(statistics.median(recovery), 1),
        recovery_seconds_p99=round(recovery[int(0.99 * (len(recovery) - 1))], 1),
        lost=0,
        wrong=0,
        seconds=round(time.monotonic() - begun),
    )
    assert figures.kills >= wanted
    assert figures.exact >= wanted // 2  # the others came at random moments
    assert snapshots >= figures.next_attempts >= len(volumes)


def assert_nothing_is_held(site: FaultSite) -> None:
    """The dead let go: no session is open, no closed attempt pins, every event is published."""
    eventually(
        "no session is open", lambda: site.sql("SELECT 1 FROM session WHERE state = 'o'") == []
    )
    held = site.sql(
        "SELECT count(*) FROM pin WHERE owner IN (SELECT attempt FROM attempt WHERE NOT open)"
    )
    assert held == [(0,)], f"closed attempts hold {held} pins"
    assert site.sql("SELECT 1 FROM attempt WHERE open") == []
    eventually(
        "the relay has published every event",
        lambda: site.sql("SELECT 1 FROM log_position WHERE published <> last") == [],
    )
    eventually("all that can be freed is freed", lambda: _nothing_to_free(site))


def _nothing_to_free(site: FaultSite) -> bool:
    found = site.commands().catalog.get("/v1/collection")
    return found["packs"] == found["tombstones"] == 0
