"""Hundreds of cuts of disks that three nodes write, with faults at every step of the barrier.

Every node writes all disks meanwhile, or the one that they share. A session may end without a
snapshot, because of a fault. If it ends with one, the restored disks show one instant, with
everything that was acknowledged before the snapshot was asked for (`deploy.witness`).
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import pytest

from deploy.local.fixtures import discard, start_or_skip
from deploy.local.home import BackcastHome
from deploy.local.servers.s3 import S3Choice
from libs.ids import uuid7
from tests.faults.conftest import Scale
from tests.faults.cuts.site import HOLD_SECONDS, SECOND_COORDINATOR, CutSite, StruckCluster
from tests.faults.cuts.striking import STEPS, How, Strike, When

NODES = 3
#: Of so many cuts, one is not disturbed by anything.
_CALM_ONE_OF = 3
#: Of so many cuts, one is asked of both coordinators at once.
_BOTH_ONE_OF = 4


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StruckCluster]:
    made = StruckCluster(BackcastHome(tmp_path_factory.mktemp("cuts"), tied=True))
    start_or_skip(lambda: made.up(print, s3=S3Choice.MINIO, agent_count=NODES))
    try:
        yield made
    finally:
        discard(made)


@pytest.fixture(params=["group", "shared"])
def cut_site(
    request: pytest.FixtureRequest, cluster: StruckCluster, tmp_path: Path
) -> Iterator[CutSite]:
    """A disk on each node, all in one group; or one disk that all nodes share."""
    name, is_shared = str(request.param), request.param == "shared"
    site = CutSite(cluster, tmp_path, name, NODES, is_shared=is_shared)
    with site.group:
        yield site


@dataclass
class Figures:
    """What the run did."""

    cuts: int = 0
    sealed: int = 0
    records: int = 0
    citations: int = 0
    #: Sessions without a snapshot, by code.
    broken: Counter[str] = field(default_factory=Counter)
    #: Strikes that hit, by process, step, moment and kind.
    struck: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


class Run:
    """One cut after the other.

    Args:
        site: with writers that write.
        seed: of faults and times.
    """

    def __init__(self, site: CutSite, seed: int) -> None:
        self.site = site
        self.figures = Figures()
        self._random = random.Random(seed)

    def cut(self) -> None:
        """Ask for a snapshot, strike somebody meanwhile, and judge what comes of it."""
        site, rng = self.site, self._random
        number = self.figures.cuts
        self.figures.cuts += 1
        asked = rng.choice(list(site.coordinators))
        name, strike = self._strike(asked)
        file = site.arm(name, strike) if strike else None
        time.sleep(rng.uniform(0, 0.1))  # where the writers are just then
        acknowledged, session = site.group.acknowledged(), uuid7()
        both = rng.randrange(_BOTH_ONE_OF) == 0
        names = list(site.coordinators) if both else [asked]
        clients = [threading.Thread(target=site.ask, args=(one, session)) for one in names]
        for client in clients:
            client.start()
        ended = site.end_of(session, clients, rng.uniform(0.2, 1.5 * HOLD_SECONDS))
        for client in clients:
            client.join()
        if file and strike:
            was_struck = not file.exists()
            file.unlink(missing_ok=True)
            if was_struck:
                kind = name.partition("-")[0]
                self.figures.struck[f"{kind} {strike.how} {strike.when} {strike.step}"] += 1
        about = f"cut {number}: {name if strike else 'nobody'} {strike or ''}"
        print(time.strftime("%X"), about, ended and (ended["state"], ended["code"]), flush=True)
        # Before anything is restored: who stands still within a transaction keeps its locks.
        site.wait_well()
        if ended is not None and ended["state"] == "sealed":
            self._judge(about, int(ended["sequence"]), acknowledged)
        else:
            self.figures.broken[ended["code"] if ended else "never opened"] += 1

    def _strike(self, coordinator: str) -> tuple[str, Strike | None]:
        rng = self._random
        if rng.randrange(_CALM_ONE_OF) == 0:
            return "", None
        kind = rng.choice(list(STEPS))
        names = {
            "coordinator": [coordinator],
            "agent": self.site.agents,
            "filter": [one.name for one in self.site.group.filters],
        }
        step, when = rng.choice(list(STEPS[kind])), rng.choice(get_args(When))
        how = rng.choice(get_args(How))
        return rng.choice(names[kind]), Strike(
            step, when, how, rng.uniform(0.1, 1.3 * HOLD_SECONDS)
        )

    def _judge(self, about: str, sequence: int, acknowledged: list[int]) -> None:
        group = self.site.group
        verdict = group.judge(dict.fromkeys(group.volumes, sequence), acknowledged)
        self.figures.sealed += 1
        self.figures.records += verdict.records
        self.figures.citations += verdict.citations
        self.figures.violations += [f"{about}: {one}" for one in verdict.contradictions]


@pytest.mark.slow
def test_no_effect_stands_without_its_cause_whoever_fails(
    cut_site: CutSite, seed: int, scale: Scale, tally: Callable[..., None]
) -> None:
    run = Run(cut_site, seed)
    for _ in range(scale.pick(20, 500, 5000)):
        run.cut()
    figures = run.figures
    for what, count in sorted(figures.struck.items()):
        print(f"{what:40} {count}")
    print(dict(figures.broken))
    tally(
        f"cuts of three nodes, {cut_site.group.name}",
        cuts=figures.cuts,
        sealed=figures.sealed,
        broken=sum(figures.broken.values()),
        struck=sum(figures.struck.values()),
        records=figures.records,
        citations=figures.citations,
        violations=len(figures.violations),
    )
    assert not figures.violations, figures.violations
    assert figures.sealed >= figures.cuts // 3
    assert figures.sealed + sum(figures.broken.values()) == figures.cuts
    if scale is not Scale.SAMPLE:
        kinds = {what.rpartition(" ")[0] for what in figures.struck}
        every = {
            f"{kind} {how} {when}"
            for kind in STEPS
            for how in get_args(How)
            for when in get_args(When)
        }
        assert kinds == every
    assert SECOND_COORDINATOR in cut_site.strikable
