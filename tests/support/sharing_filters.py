"""Filters of several nodes in front of one disk, in this process, and what agents say to them."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.runtime.buffers import large_buffer
from services.change_capture.drivers.filter.client import FilterClient
from services.change_capture.filter.marks.bitmap import ChunkBitmap
from services.change_capture.filter.messages import (
    About,
    Ask,
    ClaimCut,
    Claimed,
    CloseView,
    CutNow,
    FollowLead,
    HoldWrites,
    LeadCut,
    Leading,
    ReadView,
    Released,
    ReleaseWrites,
    SettleSession,
    expect,
)
from services.change_capture.filter.places import control_path
from services.change_capture.filter.process import VolumeFilter
from tests.support.filters import filter_settings

VOLUME = "volume-1"


class NodeFilter:
    """The filter of one node, and an agent's connection to it.

    Args:
        name: of the node.
        folder: of its state and sockets.
        disk: that all nodes write.
        more: other settings.
    """

    def __init__(self, name: str, folder: Path, disk: Path, **more: object) -> None:
        folder.mkdir(exist_ok=True)
        self.name, self._folder, self._disk = name, folder, disk
        self._settings = filter_settings(
            folder, disk, **{"direct": True, "peer_listen": "127.0.0.1:0", **more}
        )
        self.filter = VolumeFilter(self._settings)
        self.agent = self._connected()

    def restart(self, *, cleanly: bool, meanwhile: Callable[[], None] = lambda: None) -> None:
        """End the process and start another one; a killed one saves nothing.

        Args:
            cleanly: whether it is asked to stop.
            meanwhile: what happens in between.
        """
        state = self._folder / "filter" / "tracking.json"
        unclean = state.read_bytes()
        self.filter.stop()
        if not cleanly:
            state.write_bytes(unclean)
        meanwhile()
        self.filter = VolumeFilter(self._settings)
        self.agent = self._connected()

    def write(self, chunk: int, fill: bytes, count: int = 1) -> None:
        """Write whole chunks as a client of this node does."""
        content = memoryview(large_buffer(count * CHUNK_SIZE_BYTES))
        content[:] = fill * len(content)
        volume = self.filter.volume
        passage = volume.valve.passage()
        passage.enter()
        try:
            volume.write(chunk * CHUNK_SIZE_BYTES, content)
        finally:
            passage.leave()
            volume.valve.remove(passage)

    def new_agent(self) -> None:
        """The agent's connection ends, and another one is made."""
        self.agent.close()
        self.agent = self._connected()

    def _connected(self) -> FilterClient:
        return agent_of_filter(self._folder, self._disk)


def agent_of_filter(folder: Path, disk: Path) -> FilterClient:
    """An agent's connection to the filter of a disk, whose sockets lie in ``folder``."""
    descriptor = os.open(disk, os.O_RDONLY)
    try:
        return FilterClient(control_path(folder / "filters", descriptor))
    finally:
        os.close(descriptor)


class SharingNodes:
    """Nodes that write one disk; the first one is the lead.

    Args:
        folder: for all of it.
        names: of the nodes.
        chunks: of the disk, of random bytes.
        more: other settings of every filter.
    """

    def __init__(self, folder: Path, names: str = "abc", chunks: int = 32, **more: object) -> None:
        self.path = folder / "disk"
        self.chunks = chunks
        self.path.write_bytes(os.urandom(chunks * CHUNK_SIZE_BYTES))
        self.nodes = {name: NodeFilter(name, folder / name, self.path, **more) for name in names}
        self.key = os.urandom(32)
        self.token = self.address = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes.values():
            with contextlib.suppress(Exception):  # a test may have stopped it
                node.filter.stop()

    @property
    def lead(self) -> NodeFilter:
        return next(iter(self.nodes.values()))

    @property
    def followers(self) -> Sequence[NodeFilter]:
        return [*self.nodes.values()][1:]

    def __iter__(self) -> Iterator[NodeFilter]:
        return iter(self.nodes.values())

    def announce(self, cut: str) -> None:
        """Let the lead wait for followers."""
        order = LeadCut(cut, self.key, [node.name for node in self.followers])
        self.address = expect(self.lead.agent.ask(order)[0], Leading).address

    def meet(self, cut: str) -> None:
        """Let the followers connect to the lead."""
        self.announce(cut)
        for node in self.followers:
            node.agent.ask(FollowLead(cut, self.key, node.name, self.address))

    def cut(self, cut: str) -> list[str]:
        """Take all nodes through a barrier; the cut's names on them, empty where it counts not."""
        self.meet(cut)
        for node in self:
            node.agent.ask(HoldWrites(30))
        for node in self:
            node.agent.ask(CutNow())
        tokens = [self.release(node) for node in self]
        self.token = tokens[0]
        return tokens

    def release(self, node: NodeFilter) -> str:
        """Let the writes of a node go on."""
        return expect(node.agent.ask(ReleaseWrites())[0], Released).token or ""

    def claim(self, session: str, base: str | None = None) -> tuple[Claimed, list[int]]:
        """Begin the capture of the cut: what is known of the changes, and the changed chunks."""
        claimed, packed = self.lead.agent.ask(ClaimCut(self.token, VOLUME, session, base, True))
        claimed = expect(claimed, Claimed)
        bits = ChunkBitmap(self.chunks)
        if claimed.has_bits:
            bits.add_packed(packed)
        return claimed, [chunk for chunk in range(self.chunks) if chunk in bits]

    def read(self) -> bytes:
        """All bytes of the view."""
        buffer = memoryview(large_buffer(self.chunks * CHUNK_SIZE_BYTES))
        self.lead.agent.ask(ReadView(self.token, 0, len(buffer)), buffer)
        return bytes(buffer)

    def why_broken(self) -> str | None:
        """Why the view is broken, as the lead says after the last read."""
        return expect(self.lead.agent.ask(Ask(self.token))[0], About).broken

    def end(self, session: str, *, sealed: bool) -> None:
        """The capture ends, and the lead's filter hears of the outcome."""
        self.lead.agent.ask(CloseView())
        self.lead.agent.ask(SettleSession(VOLUME, session, sealed))
        for node in self:
            node.new_agent()
