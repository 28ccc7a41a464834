"""Enumerates crash points: counts the effects of a scenario, then strikes at each of them.

The work is done by processes of their own, each with its own database: they replace parts of the
services by such as run inline, which the tests' own process must not see.
"""

import logging
import random
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.queues import Queue
from pathlib import Path

from libs.runtime.retries import retried
from tests.faults.crash_points.case import Outcome, prepare, run_case
from tests.faults.crash_points.effects import (
    Fault,
    KilledAfter,
    KilledBefore,
    LandsLate,
    Paused,
)
from tests.faults.crash_points.guests import patched_catalog
from tests.faults.crash_points.inline import VirtualClock
from tests.faults.crash_points.oracle import install_watches
from tests.faults.crash_points.planted import PLANTED
from tests.faults.crash_points.process import patched_agent
from tests.faults.crash_points.saved import Saved
from tests.faults.crash_points.scenarios import SCENARIOS, Scenario
from tests.faults.crash_points.world import World
from tests.support.catalog import CatalogSite

KINDS: dict[str, type[Fault]] = {
    "before": KilledBefore,
    "after": KilledAfter,
    "late": LandsLate,
    "paused": Paused,
}
#: One of so many cases is run twice: the traces must be the same.
_REPEATED = 40
#: Failures that are reported in full; after these a worker gives up. A planted bug needs one.
_FAILURES_MAX, _PLANTED_FAILURES_MAX = 3, 1


@dataclass(frozen=True)
class Task:
    """Crash points of one scenario under one seed."""

    scenario: str
    seed: int
    #: So many of them, chosen by the seed; None: all.
    points: int | None = None
    #: Cases in which a second fault strikes while the first one is recovered from.
    pairs: int = 0
    #: A bug of `PLANTED` that is in the code meanwhile.
    planted: str | None = None


@dataclass
class Report:
    """What came of tasks."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    failures_max: int = _FAILURES_MAX

    def add(self, other: "Report") -> None:
        """Both together."""
        self.counts += other.counts
        self.failures += other.failures


_world: World


def begin_worker(dsns: "Queue[str]") -> None:
    """Make this process a worker on one of the databases."""
    global _world
    logging.disable(logging.CRITICAL)  # services tell about every fault, as they should
    for (module, name), replacement in (patched_agent() | patched_catalog()).items():
        assert hasattr(module, name), f"{module}: has no {name} to replace"
        setattr(module, name, replacement)
    clock = VirtualClock()
    assert retried.__kwdefaults__ is not None
    retried.__kwdefaults__.update(clock=clock.now, sleep=clock.sleep)
    site = CatalogSite(dsns.get())
    install_watches(site)
    memory = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="crash-points-", dir=memory if memory.is_dir() else None)
    _world = World(site, Path(folder))


def run_task(task: Task) -> Report:
    """Run the cases of a task, with the planted bug if it has one."""
    if task.planted is None:
        return _run_cases(task)
    planted = PLANTED[task.planted]
    right = getattr(planted.module_or_class, planted.name)
    setattr(planted.module_or_class, planted.name, planted.bug)
    try:
        return _run_cases(task)
    finally:
        setattr(planted.module_or_class, planted.name, right)


def _run_cases(task: Task) -> Report:
    """Count the effects of a scenario, then strike."""
    scenario = next(one for one in SCENARIOS if one.name == task.scenario)
    rng, report = random.Random(task.seed), Report()
    effects: tuple[str, ...] = ()
    if task.planted:
        report.failures_max, effects = _PLANTED_FAILURES_MAX, PLANTED[task.planted].effects
    saved = prepare(_world, scenario, task.seed)
    undisturbed = _try(scenario, saved, (), task.seed, report)
    if undisturbed is None:
        return report
    points = list(crash_points(undisturbed.trace, effects))
    if task.points is not None:
        points = rng.sample(points, min(task.points, len(points)))
    candidates: list[tuple[Fault, ...]] = []
    for point in points:
        outcome = _try(scenario, saved, (point,), task.seed, report)
        if outcome and len(outcome.trace) > point.number + 1:
            later = rng.randrange(point.number + 1, len(outcome.trace))
            candidates.append((point, rng.choice((KilledBefore, KilledAfter))(later)))
    for pair in rng.sample(candidates, min(task.pairs, len(candidates))):
        _try(scenario, saved, pair, task.seed, report)
    shutil.rmtree(_world.folder, ignore_errors=True)
    return report


def crash_points(trace: Sequence[str], effects: Sequence[str]) -> Iterator[Fault]:
    """Every fault at every effect, or at those of these names."""
    for number, effect in enumerate(trace):
        if effects and not effect.endswith(tuple(effects)):
            continue
        for kind in KINDS.values():
            if kind is not LandsLate or ": PUT" in effect or ": DELETE" in effect:
                yield kind(number)


def replay(line: str) -> Report:
    """Run one case again; ``line`` is as failures print it: SCENARIO@SEED:7:before+9:after."""
    name, *parts = line.split(":")
    name, _, seed = name.partition("@")
    report = Report()
    faults = []
    for fault in ":".join(parts).split("+"):
        number, _, kind = fault.partition(":")
        faults.append(KINDS[kind](int(number)))
    scenario = next(one for one in SCENARIOS if one.name == name)
    _try(scenario, prepare(_world, scenario, int(seed)), faults, int(seed), report)
    return report


def _try(
    scenario: Scenario, saved: Saved, faults: Sequence[Fault], seed: int, report: Report
) -> Outcome | None:
    """Run a case and count it; None if it failed."""
    if len(report.failures) >= report.failures_max:
        return None
    line = f"{scenario.name}@{seed}:{'+'.join(map(_text, faults))}"
    try:
        outcome = run_case(_world, scenario, saved, faults, seed)
        assert outcome.struck == len(faults), f"{outcome.struck} of {len(faults)} faults struck"
        if faults and zlib.crc32(line.encode()) % _REPEATED == 0:
            again = run_case(_world, scenario, saved, faults, seed)
            assert again.trace == outcome.trace, f"another trace the second time: {again.trace}"
            report.counts["repeated"] += 1
    except Exception as err:  # noqa: BLE001 -- whatever it is, the case has failed
        trace = "\n".join(f"    {n}: {what}" for n, what in enumerate(_world.effects.trace))
        report.failures.append(
            f"--crash-point '{line}'\n  {type(err).__name__}: {err}\n  trace:\n{trace}"
        )
        return None
    if len(faults) == 1:
        report.counts["crash_points"] += 1
        report.counts[_kind(faults[0])] += 1
    report.counts["pairs"] += len(faults) > 1
    report.counts["acknowledged"] += outcome.restored
    report.counts["rejected"] += outcome.rejected
    return outcome


def _kind(fault: Fault) -> str:
    return next(name for name, kind in KINDS.items() if kind is type(fault))


def _text(fault: Fault) -> str:
    return f"{fault.number}:{_kind(fault)}"
