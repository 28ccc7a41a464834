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


class WrittenDisks:
    """One disk on each node, which a filter serves; every node writes all of them.

    The disks are one for the writers: its chunks lie on them in turn. So causes and effects lie on
    different disks of different nodes.

    Args:
        home: with so many agents.
        folder: for the disks.
        name: of their group; disks and filters are called after it.
        layout: what is written.
        cold_bytes: random bytes behind it on each disk, which nobody writes again.
    """

    def __init__(
        self, home: BackcastHome, folder: Path, name: str, layout: Layout, cold_bytes: int = 0
    ) -> None:
        self.layout = layout
        self.volumes = [f"{name}-{node}" for node in range(layout.nodes)]
        self.paths = [folder / volume for volume in self.volumes]
        self.filters = [
            FilterProcess(home, f"filter-{name}-{node}", agent_of(node), path)
            for node, path in enumerate(self.paths)
        ]
        self._cold_bytes = cold_bytes
        self._writers: list[RunningWriter] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def written_bytes(self) -> int:
        """Bytes at the beginning of each disk that writers write."""
        return stripe_size_bytes(self.layout.size_bytes, len(self.paths))

    def start(self) -> None:
        """Make the disks, start the filters, and prepare what writers expect.

        Raises:
            BackcastError: a filter does not start.
        """
        for path, one in zip(self.paths, self.filters, strict=True):
            path.write_bytes(bytes(self.written_bytes) + os.urandom(self._cold_bytes))
            one.spawn()
        for one in self.filters:
            one.wait_ready()
        disks = [NbdDisk(NbdAddress(one.nbd_address), "") for one in self.filters]
        prepare(self.layout, StripedDisk(disks))
        for disk in disks:
            disk.__exit__()

    def stop(self) -> None:
        """Stop writers and filters."""
        self.stop_writers()
        for one in self.filters:
            one.stop()

    def start_writers(self) -> None:
        """Let every node write, from where its records end; this returns when each has written."""
        addresses = [one.nbd_address for one in self.filters]
        self._writers = [
            RunningWriter(self.layout, node, addresses, PAUSE_SECONDS)
            for node in range(self.layout.nodes)
        ]
        self.wait_written(self.acknowledged(), 1)

    def stop_writers(self) -> None:
        """Stop every node's writer."""
        for writer in self._writers:
            writer.stop()
        self._writers = []

    def acknowledged(self) -> list[int]:
        """For each node, the number of its newest acknowledged record.

        Raises:
            UnavailableError: one of the writers has ended.
        """
        return [number for number, _ in self.ask()]

    def ask(self) -> list[tuple[int, float]]:
        """For each node, what its writer says. Raises as `RunningWriter.ask`."""
        return [writer.ask() for writer in self._writers]

    def wait_written(self, since: Sequence[int], count: int) -> None:
        """Return when each node has written so many records more.

        Raises:
            UnavailableError: a writer has ended, or does not get that far.
        """

        def has_written() -> bool:
            now = self.acknowledged()
            return all(one >= before + count for one, before in zip(now, since, strict=True))

        if not wait_until(has_written, _WRITTEN_SECONDS_MAX):
            raise UnavailableError(
                f"writers: after {_WRITTEN_SECONDS_MAX:g} s they have written "
                f"{self.acknowledged()} records, expected {count} more than {list(since)}"
            )


def agent_of(node: int) -> str:
    """Name of the process of a node's agent; nodes are counted from 0."""
    return "agent" if node == 0 else f"agent-{node + 1}"
