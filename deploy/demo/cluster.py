"""``make demo-cluster``: a disk that three nodes write is cut at one instant.

Three agents and three volume filters stand for three nodes, which share one disk by direct I/O. A
writer on each node names in its records what it has read of the others. So a snapshot that has an
effect without its cause contradicts itself. One node is killed between two snapshots.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
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
from deploy.witness.disks import DirectFile
from deploy.witness.records import Layout
from deploy.witness.verdict import Verdict, judge
from deploy.witness.written import WrittenDisks, agent_of
from libs.errors import DamagedDataError
from libs.sizes import human_bytes

_NODES = 3
#: The node that is killed, from 0.
_KILLED = 1
_VOLUME = "disk"
#: The disk, what is restored of four points, the store, Kafka's and PostgreSQL's own files.
_SPACE_BYTES = 4 << 30
#: On the disk, besides what is written all the time.
_COLD_BYTES = 192 << 20
#: Records that each node writes between two snapshots.
_RECORDS = 300
_NEXT = """
Where to look next: docs/architecture.md, "Cutting a group" and "How changes are known", says why a
cut is one instant. `make test-faults` cuts three nodes hundreds of times, while coordinators,
agents and filters are killed, stopped and late."""
_KEPT = """
Servers and services still run; the filters have ended with their writers. To look around:
  export BACKCAST_HOME={home} PATH=$PWD/.venv/bin:$PATH
  backcast snapshot list
  backcast snapshot show disk@2
To end it: backcast dev down; rm -r {folder}"""


@dataclass(frozen=True, slots=True)
class _Point:
    """A snapshot of the disk, or a copy that somebody read meanwhile, and what it shows."""

    what: str
    verdict: Verdict
    #: What ``snapshot take --json`` printed; None: it is no snapshot.
    taken: dict[str, Any] | None = None
    #: Longest time for which a node held writes.
    held_ms: float = 0.0
    restored: Path | None = None


class _Cluster:
    """The nodes, and what a person does with them."""

    def __init__(self, folder: Path, disks: WrittenDisks, backcast: Command) -> None:
        self._folder = folder
        self._disks = disks
        self._backcast = backcast
        (self.disk,) = disks.paths

    def protect(self) -> None:
        """Add the disk as a volume of all nodes."""
        places = []
        for node in range(_NODES):
            places += ["--node", f"{node_name(node + 1)}:{self.disk}"]
        self._backcast("volume", "add", _VOLUME, *places)

    def snapshot(self, what: str) -> _Point:
        """A snapshot, which is restored and judged."""
        acknowledged = self._disks.acknowledged()
        (taken,) = self._backcast("snapshot", "take", _VOLUME)
        (shown,) = self._backcast("snapshot", "show", taken["point"])
        held_ms = max(_ms(node["held_at"], node["released_at"]) for node in shown["barrier"])
        path = self._folder / f"restored-{taken['point']}"
        self._backcast("restore", taken["point"], path)
        with DirectFile(path) as restored:
            verdict = judge(self._disks.layout, restored.read, acknowledged)
        return _Point(what, verdict, taken, held_ms, path)

    def copy(self, what: str) -> _Point:
        """What somebody gets who reads the disk while it is written, without a cut."""
        layout = self._disks.layout
        half = layout.slot_at(1, 0)
        with DirectFile(self.disk) as disk:
            content = disk.read(0, half)
            self._disks.wait_written(self._disks.acknowledged(), layout.slots)
            content += disk.read(half, layout.size_bytes - half)
        return _Point(what, judge(layout, lambda at, length: content[at : at + length]))

    def kill_node(self, node: int) -> None:
        """The node is gone: its agent and its filter, and with it its writer."""
        home = BackcastHome(self._folder / "home")
        for process in (LocalProcess(home, agent_of(node)), self._disks.filters[node].process):
            pid = process.pid
            assert pid is not None
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._disks.stop_dependent_writers(node)

    def bring_back(self, node: int) -> None:
        """The node comes back, and its writer goes on where its records end."""
        self._disks.filters[node].spawn()
        self._disks.filters[node].wait_ready()
        self._backcast("dev", "up")
        self._disks.start_writers()


def _perform(folder: Path, console: Console) -> None:
    home = BackcastHome(folder / "home")
    backcast = Command(home.folder, lambda line: console.print(f"$ {line}", style="bold"))
    backcast("dev", "up", "--s3", "soonest", "--agents", str(_NODES))
    layout = Layout(trial=os.getpid(), nodes=_NODES, contended=32, slots=512)
    written = WrittenDisks(home, folder, _VOLUME, layout, is_shared=True, cold_bytes=_COLD_BYTES)
    with written as disks:
        disks.start()
        points = _play(disks, _Cluster(folder, disks, backcast), console.print)
    for table in (_costs(points), _verdicts(points)):
        console.print("")
        console.print(table)


def _play(disks: WrittenDisks, cluster: _Cluster, tell: Callable[[str], None]) -> list[_Point]:
    tell(f"Three nodes write one disk. {human_bytes(_COLD_BYTES)} of it stay as they are")
    cluster.protect()
    disks.start_writers()
    disks.wait_written([0] * _NODES, _RECORDS)
    points = [cluster.snapshot("first")]
    disks.wait_written(disks.acknowledged(), _RECORDS)
    points.append(cluster.snapshot("second"))
    tell("A node is killed. The others write on, but no snapshot is taken without it")
    cluster.kill_node(_KILLED)
    try:
        cluster.snapshot("without a node")
    except CommandFailedError:  # it has said why
        pass
    else:
        raise DamagedDataError("a snapshot was taken although a node is gone")
    tell("The node comes back. Nobody knows what it had written, so all of the disk is compared")
    cluster.bring_back(_KILLED)
    disks.wait_written(disks.acknowledged(), _RECORDS)
    points.append(cluster.snapshot("after the kill"))
    copied = cluster.copy("a copy without a cut")
    tell("The writers stop. Now a point must be what the disk has, byte for byte")
    disks.stop_writers()
    points.append(cluster.snapshot("at rest"))
    restored = points[-1].restored
    assert restored is not None
    if restored.read_bytes() != cluster.disk.read_bytes():
        raise DamagedDataError(f"{restored}: is not what {cluster.disk} has")
    for point in points:
        if point.verdict.contradictions:
            raise DamagedDataError(f"{point.what}: {'; '.join(point.verdict.contradictions)}")
    if not copied.verdict.contradictions:
        raise DamagedDataError("a copy of different moments does not contradict itself")
    return [*points, copied]


def _costs(points: Sequence[_Point]) -> Table:
    table = Table(title="What was sent", title_justify="left")
    for heading in ("snapshot", "", "changes"):
        table.add_column(heading)
    for heading in ("read", "sent", "stored"):
        table.add_column(heading, justify="right")
    for point in points:
        if one := point.taken:
            figures = (human_bytes(one[f"{name}_bytes"]) for name in ("read", "sent", "stored"))
            table.add_row(point.what, one["point"], one["tracking"], *figures)
    return table


def _verdicts(points: Sequence[_Point]) -> Table:
    table = Table(title="Whether it was one instant", title_justify="left")
    table.add_column("")
    for heading in ("writes held", "records", "causes sought", "contradictions"):
        table.add_column(heading, justify="right")
    for point in points:
        verdict = point.verdict
        counts = (verdict.records, verdict.citations, len(verdict.contradictions))
        held = f"{point.held_ms:.0f} ms" if point.taken else "-"
        table.add_row(point.what, held, *(str(count) for count in counts))
    return table


def _ms(begin: str, end: str) -> float:
    return 1000 * (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()


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
