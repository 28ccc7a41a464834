"""For how long a barrier holds writers, on so many nodes, as the writers and the nodes see it.

Agents, filters and writers are processes of this machine. Every writer writes all disks all the
time, and notes its longest step. A step that a barrier holds lasts from the hold to the release,
with the flushes in between.
"""

import os
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bench.backcast import Backcast
from deploy.local.home import BackcastHome
from deploy.local.services import node_name
from deploy.witness.records import Layout
from deploy.witness.written import WrittenDisks

#: Upper ends of the histogram's classes, in milliseconds.
CLASSES_MS = (10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000)


@dataclass(frozen=True)
class Holds:
    """How long something waited, once for each node and cut."""

    milliseconds: Sequence[float]

    def percentile(self, share: float) -> float:
        """The value that so large a share does not exceed, in milliseconds."""
        ordered = sorted(self.milliseconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def histogram(self) -> list[tuple[str, int]]:
        """Classes, and how many are in each."""
        counts = [0] * (len(CLASSES_MS) + 1)
        for one in self.milliseconds:
            counts[bisect_left(CLASSES_MS, one)] += 1
        names = [*(f"≤ {end} ms" for end in CLASSES_MS), f"> {CLASSES_MS[-1]} ms"]
        return list(zip(names, counts, strict=True))


def measure_barrier(nodes: int, cuts: int, folder: Path) -> dict[str, Holds]:
    """The longest steps of writers around cuts and without cuts, and how long nodes held.

    Args:
        nodes: how many, each with an agent, a filter and a writer.
        cuts: snapshots that are taken.
        folder: for the disks and the servers' data; 3 GiB.

    Raises:
        BackcastError: something cannot be started.
        StepFailedError: a snapshot is not taken.
    """
    steps: dict[str, list[float]] = {"writers at a cut": [], "writers between": [], "nodes": []}
    with ExitStack() as opened:
        backcast = Backcast(folder, "minio")
        backcast.up_options = ("--agents", str(nodes))
        backcast.open()
        opened.callback(backcast.close)
        layout = Layout(trial=os.getpid(), nodes=nodes, contended=16, slots=64)
        disks = WrittenDisks(BackcastHome(folder / "home"), folder, "disk", layout)
        opened.enter_context(disks)
        disks.start()
        for node, path in enumerate(disks.paths):
            where = ("--node", node_name(node + 1), "--driver", "filter", "--group", "all")
            backcast.protect(path.name, path, *where)
        disks.start_writers()
        for _ in range(cuts):
            disks.wait_written(disks.acknowledged(), 20)
            steps["writers between"] += [1000 * seconds for _, seconds in disks.ask()]
            shown = backcast.snapshot_of("all", disks.volumes[0])
            steps["writers at a cut"] += [1000 * seconds for _, seconds in disks.ask()]
            steps["nodes"] += [1000 * _seconds(one["held_at"], one["released_at"]) for one in shown]
    return {what: Holds(found) for what, found in steps.items()}


def _seconds(begin: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()
