"""Disks of a group, written by writers of the witness through filters on several nodes."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self
from urllib.request import Request, urlopen

from deploy.local.filters import FilterProcess
from deploy.local.services import node_name
from deploy.witness.disks import NbdDisk, StripedDisk, stripe_size_bytes
from deploy.witness.records import Layout
from deploy.witness.running import RunningWriter
from deploy.witness.verdict import Verdict, judge
from deploy.witness.writer import prepare
from libs.nbd.connection.dialling import NbdAddress
from tests.support.running import TENANT, RunningSite, eventually

#: Between two steps of a writer, so that services get processors too.
PAUSE_SECONDS = 0.002


def agent_of(node: int) -> str:
    """Name of the process of a node's agent; nodes are counted from 0."""
    return "agent" if node == 0 else f"agent-{node + 1}"


class WitnessedGroup:
    """One disk on each node, which a filter serves; every node writes all of them.

    The disks are one for the writers: its chunks lie on them in turn. So causes and effects lie on
    different disks of different nodes.

    Args:
        site: with so many agents.
        folder: for the disks.
        name: of the group; its volumes are called after it.
        nodes: how many.
    """

    def __init__(self, site: RunningSite, folder: Path, name: str, nodes: int) -> None:
        self.site = site
        self.name = name
        self.layout = Layout(trial=random.randrange(1 << 32), nodes=nodes, contended=6, slots=64)
        self.volumes = [f"{name}-{node}" for node in range(nodes)]
        self.paths = [folder / volume for volume in self.volumes]
        home = site.cluster.home
        self.filters = [
            FilterProcess(home, f"filter-{name}-{node}", agent_of(node), path)
            for node, path in enumerate(self.paths)
        ]
        self._writers: list[RunningWriter] = []

    def __enter__(self) -> Self:
        size_bytes = stripe_size_bytes(self.layout.size_bytes, len(self.paths))
        try:
            for node, (path, filter_) in enumerate(zip(self.paths, self.filters, strict=True)):
                path.write_bytes(bytes(size_bytes))
                filter_.spawn()
                filter_.wait_ready()
                self.protect(node, self.volumes[node], self.name)
            disks = [NbdDisk(NbdAddress(one.nbd_address), "") for one in self.filters]
            prepare(self.layout, StripedDisk(disks))
            for disk in disks:
                disk.__exit__()
            self.start_writers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_writers()
        for filter_ in self.filters:
            filter_.stop()

    def protect(self, node: int, volume: str, group: str, *, again: bool = False) -> None:
        """Add the disk of a node as a volume."""
        body = {
            "name": volume,
            "group": group,
            "path": str(self.paths[node]),
            "node": node_name(node + 1),
            "driver": "filter",
            "again": again,
        }
        self.site.coordinator.post(f"/v1/tenants/{TENANT}/volumes", body)

    # Writers

    def start_writers(self) -> None:
        """Let every node write, from where its records end; this returns when each has written."""
        addresses = [one.nbd_address for one in self.filters]
        self._writers = [
            RunningWriter(self.layout, node, addresses, PAUSE_SECONDS)
            for node in range(self.layout.nodes)
        ]
        begun = self.acknowledged()
        self.wait_written(begun, 1)

    def stop_writers(self) -> None:
        """Stop every node's writer."""
        for writer in self._writers:
            writer.stop()
        self._writers = []

    @property
    def writes(self) -> bool:
        """Whether every node's writer runs."""
        return bool(self._writers) and all(one.runs for one in self._writers)

    def acknowledged(self) -> list[int]:
        """For each node, the number of its newest acknowledged record.

        Raises:
            UnavailableError: one of the writers has ended.
        """
        return [writer.ask()[0] for writer in self._writers]

    def wait_written(self, since: Sequence[int], count: int) -> None:
        """Return when each node has written so many records more."""

        def has_written() -> bool:
            return all(
                now >= before + count
                for now, before in zip(self.acknowledged(), since, strict=True)
            )

        eventually(f"every node has written {count} records", has_written)

    # Snapshots

    def judge(
        self, points: Mapping[str, object], acknowledged: Sequence[int] | None = None
    ) -> Verdict:
        """Judge restored bytes: of each volume, in the order of nodes, at this point."""
        disks = [_Restored(restored(self.site, name, str(at))) for name, at in points.items()]
        return judge(self.layout, StripedDisk(disks).read, acknowledged)


class _Restored:
    """Bytes that were restored, as a disk."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, offset: int, length: int) -> bytes:
        return self._content[offset : offset + length]

    def write(self, offset: int, content: bytes) -> None:
        raise AssertionError("nobody writes what was restored")


def restored(site: RunningSite, volume: str, point: str) -> bytes:
    """All bytes of a recovery point, as the restore service gives them."""
    where = f"/v1/tenants/{TENANT}/volumes/{volume}/points/{point}/bytes"
    token = site.cluster.home.secret("token")
    request = Request(site.cluster.home.url + where, headers={"Authorization": f"Bearer {token}"})
    with urlopen(request, timeout=60) as answer:
        content: bytes = answer.read()
        return content
