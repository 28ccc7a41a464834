"""Disks of several nodes, each behind a filter, which writers on all nodes write together."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from deploy.local.filters import FilterProcess
from deploy.local.home import BackcastHome
from deploy.local.process import wait_until
from deploy.witness.disks import NbdDisk, StripedDisk, stripe_size_bytes
from deploy.witness.records import Layout
from deploy.witness.running import RunningWriter
from deploy.witness.writer import prepare
from libs.errors import UnavailableError
from libs.nbd.connection.dialling import NbdAddress

#: Between two steps of a writer, so that services get processors too.
PAUSE_SECONDS = 0.002
_WRITTEN_SECONDS_MAX = 90.0
#: A write of a shared disk waits for the lead's filter; on a busy machine that is long.
_SCRATCH_SECONDS_MAX = 30.0


class WrittenDisks:
    """One disk on each node, or one that all nodes share; filters serve it, and every node writes.

    Disks of several nodes are one for the writers: its chunks lie on them in turn, and every node
    writes all of them. So causes and effects lie on different disks of different nodes. A shared
    disk has a filter on each node, past the page cache, and each node writes by its own.

    Args:
        home: with so many agents.
        folder: for the disks.
        name: of their group; disks and filters are called after it.
        layout: what is written.
        is_shared: all nodes share one disk.
        cold_bytes: random bytes behind it on each disk, which nobody writes again.
    """

    def __init__(  # noqa: PLR0913 -- what is written where
        self,
        home: BackcastHome,
        folder: Path,
        name: str,
        layout: Layout,
        *,
        is_shared: bool = False,
        cold_bytes: int = 0,
    ) -> None:
        self.layout = layout
        self.is_shared = is_shared
        nodes = range(layout.nodes)
        self.volumes = [name] if is_shared else [f"{name}-{node}" for node in nodes]
        self.paths = [folder / volume for volume in self.volumes]
        self.filters = [
            FilterProcess(
                home,
                f"filter-{name}-{node}",
                agent_of(node),
                self.path_on(node),
                is_direct=is_shared,
            )
            for node in nodes
        ]
        for one in self.filters:
            one.environ["BACKCAST_FILTER_SCRATCH_WAIT_SECONDS"] = str(_SCRATCH_SECONDS_MAX)
        self._cold_bytes = cold_bytes
        self._writers: dict[int, RunningWriter] = {}
        #: For each node, the newest record that its writer has named.
        self._acknowledged = [0] * layout.nodes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def path_on(self, node: int) -> Path:
        """Where the disk of a node lies."""
        return self.paths[0 if self.is_shared else node]

    def start(self) -> None:
        """Make the disks, start the filters, and prepare what writers expect.

        Raises:
            BackcastError: a filter does not start.
        """
        size_bytes = stripe_size_bytes(self.layout.size_bytes, len(self.paths))
        for path in self.paths:
            path.write_bytes(bytes(size_bytes) + os.urandom(self._cold_bytes))
        for one in self.filters:
            one.spawn()
        for one in self.filters:
            one.wait_ready()
        disks = [NbdDisk(NbdAddress(address), "") for address in self._addresses(0)]
        prepare(self.layout, StripedDisk(disks))
        for disk in disks:
            disk.__exit__()

    def stop(self) -> None:
        """Stop writers and filters."""
        self.stop_writers()
        for one in self.filters:
            one.stop()

    def start_writers(self) -> None:
        """Let every node write that does not, from where its records end.

        This returns when each of them has written.

        Raises:
            UnavailableError: one of them does not get that far.
        """
        for node in range(self.layout.nodes):
            writer = self._writers.get(node)
            if writer is None or not writer.runs:
                if writer is not None:
                    writer.stop()
                self._writers[node] = RunningWriter(
                    self.layout, node, self._addresses(node), PAUSE_SECONDS
                )
        self.wait_written(self.acknowledged(), 1)

    def stop_writers(self) -> None:
        """Stop every node's writer."""
        for writer in self._writers.values():
            writer.stop()
        self._writers.clear()

    def stop_dependent_writers(self, node: int) -> None:
        """Stop the writers that write by the filter of a node."""
        for one in list(self._writers):
            if one == node or not self.is_shared:
                self._writers.pop(one).stop()

    def acknowledged(self) -> list[int]:
        """For each node, the number of its newest acknowledged record.

        Of a node without a writer it is what its last one has said.

        Raises:
            UnavailableError: one of the writers has ended.
        """
        self.ask()
        return list(self._acknowledged)

    def ask(self) -> list[tuple[int, float]]:
        """For each node that writes, what its writer says. Raises as `RunningWriter.ask`."""
        said = []
        for node, writer in self._writers.items():
            said.append(writer.ask())
            self._acknowledged[node] = said[-1][0]
        return said

    def wait_written(self, since: Sequence[int], count: int) -> None:
        """Return when each node that writes has written so many records more.

        Raises:
            UnavailableError: a writer has ended, or does not get that far.
        """

        def has_written() -> bool:
            now = self.acknowledged()
            return all(now[node] >= since[node] + count for node in self._writers)

        if not wait_until(has_written, _WRITTEN_SECONDS_MAX):
            raise UnavailableError(
                f"writers: after {_WRITTEN_SECONDS_MAX:g} s they have written "
                f"{self._acknowledged} records, expected {count} more than {list(since)}"
            )

    def _addresses(self, node: int) -> list[str]:
        """By what a node writes."""
        filters = [self.filters[node]] if self.is_shared else self.filters
        return [one.nbd_address for one in filters]


def agent_of(node: int) -> str:
    """Name of the process of a node's agent; nodes are counted from 0."""
    return "agent" if node == 0 else f"agent-{node + 1}"
