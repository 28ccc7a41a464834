"""One disk that several nodes write through filters, and writers of the witness on each of them."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Self
from urllib.request import Request, urlopen

from deploy.local.filters import FilterProcess
from deploy.local.services import node_name
from deploy.witness.disks import NbdDisk
from deploy.witness.records import Layout
from deploy.witness.running import RunningWriter
from deploy.witness.verdict import Verdict, judge
from deploy.witness.writer import prepare
from libs.nbd.connection.dialling import NbdAddress
from tests.support.running import TENANT, Answer, RunningSite, eventually

#: Between two steps of a writer, so that services get processors too.
PAUSE_SECONDS = 0.002
#: A write waits for the lead for so long at most; on a busy machine that is long.
_WAIT_SECONDS = 30


def agent_of(node: int) -> str:
    """Name of the process of a node's agent; nodes are counted from 0."""
    return "agent" if node == 0 else f"agent-{node + 1}"


class SharedDisk:
    """A disk of zeros, and a filter of it on each node.

    Args:
        site: with so many agents.
        path: of the disk.
        name: of the volume.
        nodes: how many write it; the first one is the lead.
        layout: of the witness; None: one of its own.
    """

    def __init__(
        self, site: RunningSite, path: Path, name: str, nodes: int, layout: Layout | None = None
    ) -> None:
        self.site, self.path, self.name = site, path, name
        self.layout = layout or Layout(
            trial=random.randrange(1 << 32), nodes=nodes, contended=6, slots=64
        )
        home = site.cluster.home
        self.filters = [
            FilterProcess(home, f"filter-{name}-{node}", agent_of(node), path, is_direct=True)
            for node in range(nodes)
        ]
        for one in self.filters:
            one.environ["BACKCAST_FILTER_SCRATCH_WAIT_SECONDS"] = str(_WAIT_SECONDS)
        self.writers: list[RunningWriter] = []

    def __enter__(self) -> Self:
        self.path.write_bytes(bytes(self.layout.size_bytes))
        try:
            for one in self.filters:
                one.spawn()
            for one in self.filters:
                one.wait_ready()
            with NbdDisk(NbdAddress(self.filters[0].nbd_address), "") as disk:
                prepare(self.layout, disk)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_writers()
        for one in self.filters:
            one.stop()

    def place(self, node: int) -> dict[str, str]:
        """A node's place of the disk, as REST says it."""
        return {"node": node_name(node + 1), "path": str(self.path)}

    def protect(self, nodes: Sequence[int] | None = None) -> Answer:
        """Add the volume with these nodes, or with all of them."""
        chosen = range(len(self.filters)) if nodes is None else nodes
        body = {"name": self.name, "nodes": [self.place(node) for node in chosen]}
        added: Answer = self.site.coordinator.post(f"/v1/tenants/{TENANT}/volumes", body)
        return added

    # Writing

    def write(self, node: int, offset: int, content: bytes) -> None:
        """Write as one node."""
        with NbdDisk(NbdAddress(self.filters[node].nbd_address), "") as disk:
            disk.write(offset, content)

    def start_writers(self, nodes: Sequence[int] | None = None) -> None:
        """Let nodes write; this returns when each has written."""
        self.writers = [
            RunningWriter(self.layout, node, [self.filters[node].nbd_address], PAUSE_SECONDS)
            for node in (range(self.layout.nodes) if nodes is None else nodes)
        ]
        self.wait_written(self.acknowledged(), 1)

    def stop_writers(self) -> None:
        """Stop every writer."""
        for writer in self.writers:
            writer.stop()
        self.writers = []

    def acknowledged(self) -> list[int]:
        """For each node, the number of its newest acknowledged record; 0 of one without a writer.

        Raises:
            UnavailableError: one of the writers has ended.
        """
        numbers = [0] * self.layout.nodes
        for writer in self.writers:
            numbers[writer.node] = writer.ask()[0]
        return numbers

    def wait_written(self, since: Sequence[int], count: int) -> None:
        """Return when each writer has written so many records more."""

        def has_written() -> bool:
            now = self.acknowledged()
            return all(now[one.node] >= since[one.node] + count for one in self.writers)

        eventually(f"every node has written {count} records", has_written)

    # Snapshots

    def restored(self, point: object = "latest") -> bytes:
        """The bytes of a recovery point."""
        where = f"/v1/tenants/{TENANT}/volumes/{self.name}/points/{point}/bytes"
        home = self.site.cluster.home
        request = Request(
            home.url + where, headers={"Authorization": f"Bearer {home.secret('token')}"}
        )
        with urlopen(request, timeout=60) as answer:
            content: bytes = answer.read()
        return content

    def judge(self, point: object = "latest", acknowledged: Sequence[int] | None = None) -> Verdict:
        """Judge a recovery point."""
        content = self.restored(point)
        return judge(
            self.layout, lambda offset, length: content[offset : offset + length], acknowledged
        )
