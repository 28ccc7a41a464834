"""Disks of a group, written by writers of the witness through filters on several nodes."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self
from urllib.request import Request, urlopen

from deploy.local.services import node_name
from deploy.witness.disks import StripedDisk
from deploy.witness.records import Layout
from deploy.witness.verdict import Verdict, judge
from deploy.witness.written import WrittenDisks
from tests.support.running import TENANT, RunningSite


class WitnessedGroup(WrittenDisks):
    """Disks that are written from when the group is entered, as volumes of a site.

    Args:
        site: with so many agents.
        folder: for the disks.
        name: of the group; its volumes are called after it.
        nodes: how many.
        is_shared: they share one disk.
    """

    def __init__(
        self, site: RunningSite, folder: Path, name: str, nodes: int, *, is_shared: bool = False
    ) -> None:
        layout = Layout(trial=random.randrange(1 << 32), nodes=nodes, contended=6, slots=64)
        super().__init__(site.cluster.home, folder, name, layout, is_shared=is_shared)
        self.site = site
        self.name = name

    def __enter__(self) -> Self:
        try:
            self.start()
            if self.is_shared:
                self._protect_shared()
            else:
                for node, volume in enumerate(self.volumes):
                    self.protect(node, volume, self.name)
            self.start_writers()
        except BaseException:
            self.stop()
            raise
        return self

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

    def _protect_shared(self) -> None:
        nodes = [
            {"node": node_name(node + 1), "path": str(self.path_on(node))}
            for node in range(self.layout.nodes)
        ]
        body = {"name": self.name, "nodes": nodes}
        self.site.coordinator.post(f"/v1/tenants/{TENANT}/volumes", body)

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
