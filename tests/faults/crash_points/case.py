"""One case: a scenario with faults at some of its effects, run to the end and checked."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.crash_points.effects import Fault
from tests.faults.crash_points.oracle import Oracle, WatchedBucket
from tests.faults.crash_points.scenarios import Scenario, Take, Together, Write
from tests.faults.crash_points.world import World


@dataclass(frozen=True)
class Outcome:
    """What a case that held has shown."""

    trace: tuple[str, ...]
    struck: int
    restored: int
    rejected: int


def run_case(world: World, scenario: Scenario, faults: Sequence[Fault], seed: int) -> Outcome:
    """Run a case from an empty catalog and bucket.

    Raises:
        AssertionError: an invariant does not hold, or something hangs.
    """
    world.reset(seed, scenario.chunkers, WatchedBucket(world.site))
    for group, sizes in scenario.groups.items():
        world.protect(group, sizes)
    for step in scenario.before:
        step.do(world)
    world.arm(list(faults))
    for step in scenario.under_fault:
        step.do(world)
    trace, struck = tuple(world.effects.trace), world.effects.struck
    world.disarm()
    world.let_time_pass()
    world.run()
    oracle = Oracle(world)
    oracle.check_rows()
    rejected = sum(map(len, world.rejections))
    for reasons in world.rejections:
        assert len(reasons) <= struck, f"sessions rejected without a fault: {reasons}"
    for group, sizes in scenario.groups.items():
        for volume in sizes:
            Write(volume, 2).do(world)
        Take((group,)).do(world)
        assert not world.rejections[-1], f"the next attempt failed: {world.rejections[-1]}"
    oracle.check_rows()
    oracle.acked_durable()
    _clean_up(world, scenario)
    oracle.check_rows()
    oracle.space()
    return Outcome(trace, struck, oracle.restored, rejected)


def _clean_up(world: World, scenario: Scenario) -> None:
    """Only the newest snapshots are kept, and everything that ever cleans up has been there."""
    world.let_time_pass()
    expirers = [f"Expirer {group}" for group in scenario.groups]
    for guests in (expirers, ["Sweep"], ["Collector"]):
        Together(tuple(guests)).do(world)
