"""One case: a scenario with faults at some of its effects, run to the end and checked."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.crash_points.effects import Fault
from tests.faults.crash_points.guests import Collector, Expirer, Replicate, Sweep
from tests.faults.crash_points.oracle import Oracle, WatchedBucket
from tests.faults.crash_points.saved import Saved
from tests.faults.crash_points.scenarios import Scenario, Take, Write
from tests.faults.crash_points.world import World


@dataclass(frozen=True)
class Outcome:
    """What a case that held has shown."""

    trace: tuple[str, ...]
    struck: int
    restored: int
    rejected: int


def prepare(world: World, scenario: Scenario, seed: int) -> Saved:
    """Let happen what happens before faults, once for all cases of a scenario and seed."""
    world.reset(seed, scenario.chunkers, *_buckets(world, scenario))
    for group, sizes in scenario.groups.items():
        world.protect(group, sizes)
    for step in scenario.before:
        step.do(world)
    return world.save()


def run_case(
    world: World, scenario: Scenario, saved: Saved, faults: Sequence[Fault], seed: int
) -> Outcome:
    """Run a case from what was saved, with these faults.

    Raises:
        AssertionError: an invariant does not hold, or something hangs.
    """
    world.resume(saved, seed, *_buckets(world, scenario))
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
    if scenario.second:
        oracle.second_store()
    return Outcome(trace, struck, oracle.restored, rejected)


def _clean_up(world: World, scenario: Scenario) -> None:
    """Only the newest snapshots are kept, and everything that ever cleans up has been there."""
    world.let_time_pass()
    for group in scenario.groups:
        Expirer(world, "expirer", group).finish()
    if scenario.second:
        Replicate(world, "replicate").finish()
    Sweep(world, "sweep").finish()
    Collector(world, "collector").finish()
    if scenario.second:
        Replicate(world, "replicate").finish()
        Sweep(world, "sweep").finish()  # manifests there, once the collector has deleted them here


def _buckets(world: World, scenario: Scenario) -> list[WatchedBucket]:
    return [WatchedBucket(world.site) for _ in range(1 + scenario.second)]
