"""``make demo-cluster``: disks of three nodes that all nodes write are cut at one instant.

Three agents and three volume filters stand for three nodes. A writer on each node writes all disks,
and names in its records what it has read of the others. So a snapshot that has an effect without
its cause contradicts itself. One node is killed between two snapshots.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from deploy.demo.command import Command, CommandFailedError
from deploy.demo.stage import Demonstration, show
from deploy.local.home import BackcastHome
from deploy.local.process import LocalProcess
from deploy.local.services import node_name
from deploy.witness.disks import DirectFile, StripedDisk
from deploy.witness.records import Layout
from deploy.witness.verdict import Verdict, judge
from deploy.witness.written import WrittenDisks, agent_of
from libs.errors import DamagedDataError
from libs.sizes import human_bytes

_NODES = 3
#: The node that is killed, from 0.
_KILLED = 1
_GROUP = "cluster"
#: Disks, what is restored of four points, the store, Kafka's and PostgreSQL's own files.
_SPACE_BYTES = 4 << 30
#: On each disk, besides what is written all the time.
_COLD_BYTES = 64 << 20
#: Records that each node writes between two snapshots.
_RECORDS = 300
_NEXT = """
Where to look next: docs/architecture.md, "Cutting a group" and "How changes are known", says why a
cut is one instant. `make test-faults` cuts three nodes 500 times, while coordinators, agents and
filters are killed, stopped and late."""
_KEPT = """
Servers and services still run; the filters have ended with their writers. To look around:
  export BACKCAST_HOME={home} PATH=$PWD/.venv/bin:$PATH
  backcast snapshot list
  backcast snapshot show disk-0@2
To end it: backcast dev down; rm -r {folder}"""


@dataclass(frozen=True, slots=True)
class _Point:
    """A snapshot of the disks, and what came of its restore."""

    what: str
    #: What ``snapshot take --json`` printed, a document for each disk.
    taken: Sequence[dict[str, Any]]
    #: Longest time for which a node held writes; None: they were not cut together.
    held_ms: float | None
    verdict: Verdict
    restored: Sequence[Path]


class _Cluster:
    """The nodes, and what a person does with them."""

    def __init__(self, folder: Path, disks: WrittenDisks, backcast: Command) -> None:
        self._folder = folder
        self._disks = disks
        self._backcast = backcast

    def protect(self, names: Sequence[str], group: Sequence[str], *more: str) -> None:
        """Add the disks as volumes."""
        for node, (name, path) in enumerate(zip(names, self._disks.paths, strict=True)):
            where = ("--node", node_name(node + 1), "--driver", "filter", *more)
            self._backcast("volume", "add", name, path, *where, *group)

    def together(self, what: str) -> _Point:
        """A snapshot of the group."""
        acknowledged = self._disks.acknowledged()
        taken = self._backcast("snapshot", "take", _GROUP)
        (shown,) = self._backcast("snapshot", "show", taken[0]["point"])
        held_ms = max(_seconds(node["held_at"], node["released_at"]) for node in shown["barrier"])
        return self._restored(what, taken, 1000 * held_ms, acknowledged)

    def one_by_one(self, what: str, names: Sequence[str]) -> _Point:
        """A snapshot of each disk alone, while all are written."""
        taken = []
        for name in names:
            taken += self._backcast("snapshot", "take", name)
            self._disks.wait_written(self._disks.acknowledged(), self._disks.layout.slots // 4)
        return self._restored(what, taken, None, None)

    def kill_node(self, node: int) -> None:
        """The node is gone: its agent and its filter."""
        home = BackcastHome(self._folder / "home")
        for process in (LocalProcess(home, agent_of(node)), self._disks.filters[node].process):
            pid = process.pid
            assert pid is not None
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._disks.stop_writers()  # they write all disks, and one of them is gone

    def bring_back(self, node: int) -> None:
        """The node comes back, and its writer goes on where its records end."""
        self._disks.filters[node].spawn()
        self._disks.filters[node].wait_ready()
        self._backcast("dev", "up")
        self._disks.start_writers()

    def _restored(
        self,
        what: str,
        taken: Sequence[dict[str, Any]],
        held_ms: float | None,
        acknowledged: Sequence[int] | None,
    ) -> _Point:
        paths = [self._folder / f"restored-{one['point']}" for one in taken]
        for one, path in zip(taken, paths, strict=True):
            self._backcast("restore", one["point"], path)
        with ExitStack() as opened:
            disks = [opened.enter_context(DirectFile(path)) for path in paths]
            verdict = judge(self._disks.layout, StripedDisk(disks).read, acknowledged)
        return _Point(what, taken, held_ms, verdict, paths)


def _perform(folder: Path, console: Console) -> None:
    home = BackcastHome(folder / "home")
    backcast = Command(home.folder, lambda line: console.print(f"$ {line}", style="bold"))
    backcast("dev", "up", "--s3", "soonest", "--agents", str(_NODES))
    layout = Layout(trial=os.getpid(), nodes=_NODES, contended=32, slots=1024)
    with WrittenDisks(home, folder, "disk", layout, _COLD_BYTES) as disks:
        disks.start()
        points = _play(disks, _Cluster(folder, disks, backcast), console.print)
    for table in (_costs(points), _verdicts(points)):
        console.print("")
        console.print(table)


def _play(disks: WrittenDisks, cluster: _Cluster, tell: Callable[[str], None]) -> list[_Point]:
    tell(
        f"Three nodes with a disk each. Each node writes all disks, {human_bytes(_COLD_BYTES)} stay"
    )
    cluster.protect(disks.volumes, ("--group", _GROUP))
    disks.start_writers()
    disks.wait_written([0] * _NODES, _RECORDS)
    points = [cluster.together("first")]
    disks.wait_written(disks.acknowledged(), _RECORDS)
    points.append(cluster.together("second"))
    tell("A node is killed. While it is gone, nobody is told that there is a snapshot")
    cluster.kill_node(_KILLED)
    try:
        cluster.together("without a node")
    except CommandFailedError:  # it has said why
        pass
    else:
        raise DamagedDataError("a snapshot was taken although a node is gone")
    tell("The node comes back. Its filter was killed, so all of its disk is compared")
    cluster.bring_back(_KILLED)
    disks.wait_written(disks.acknowledged(), _RECORDS)
    points.append(cluster.together("after the kill"))
    tell("The writers stop. Now a point must be what the disks have, byte for byte")
    disks.stop_writers()
    points.append(cluster.together("at rest"))
    for path, disk in zip(points[-1].restored, disks.paths, strict=True):
        if path.read_bytes() != disk.read_bytes():
            raise DamagedDataError(f"{path}: is not what {disk} has")
    for point in points:
        if point.verdict.contradictions:
            raise DamagedDataError(f"{point.what}: {'; '.join(point.verdict.contradictions)}")
    tell("They go on, and the disks are cut one by one, as snapshots of single nodes are")
    disks.start_writers()
    alone = [f"alone-{node}" for node in range(_NODES)]
    cluster.protect(alone, (), "--again")
    points.append(cluster.one_by_one("one by one", alone))
    if not points[-1].verdict.contradictions:
        raise DamagedDataError("disks that were cut one by one do not contradict each other")
    return points


def _costs(points: Sequence[_Point]) -> Table:
    table = Table(title="What was sent", title_justify="left")
    for heading in ("snapshot", "disk", "changes"):
        table.add_column(heading)
    for heading in ("read", "sent", "stored"):
        table.add_column(heading, justify="right")
    for point in points:
        for number, one in enumerate(point.taken):
            figures = (human_bytes(one[f"{name}_bytes"]) for name in ("read", "sent", "stored"))
            what = "" if number else point.what
            table.add_row(what, one["point"], one["tracking"], *figures)
    return table


def _verdicts(points: Sequence[_Point]) -> Table:
    table = Table(title="Whether it was one instant", title_justify="left")
    table.add_column("snapshot")
    for heading in ("writes held", "records", "causes sought", "contradictions"):
        table.add_column(heading, justify="right")
    for point in points:
        verdict = point.verdict
        counts = (verdict.records, verdict.citations, len(verdict.contradictions))
        held = "one by one" if point.held_ms is None else f"{point.held_ms:.0f} ms"
        table.add_row(point.what, held, *(str(count) for count in counts))
    return table


def _seconds(begin: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()


if __name__ == "__main__":
    sys.exit(
        show(
            Demonstration(
                "python -m deploy.demo.cluster",
                __doc__,
                _SPACE_BYTES,
                _perform,
                _NEXT,
                _KEPT,
            )
        )
    )
