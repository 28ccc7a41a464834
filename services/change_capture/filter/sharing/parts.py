"""What agents have told this filter about shared disks: which cuts it leads, and which it follows.

Until such a cut is made it belongs to the connection of the agent that spoke of it, as a hold does.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from libs.errors import SourceError
from services.change_capture.filter.sharing.channel import KEY_SIZE_BYTES
from services.change_capture.filter.sharing.follower import KeptByLead, TellChanges
from services.change_capture.filter.sharing.lead import LeadServer, LedCut
from services.change_capture.filter.sharing.messages import Hello
from services.change_capture.filter.volume import FilteredVolume

#: Nodes that write one volume.
NODES_MAX = 8


@dataclass(frozen=True, slots=True)
class Member:
    """This filter as a follower."""

    #: Of its tracking.
    epoch: str
    #: Longest wait of one write for the lead.
    wait_seconds_max: float
    #: Answers the lead.
    tell_changes: TellChanges
    #: Called when the lead is gone, or has let the cut go.
    on_end: Callable[[KeptByLead], None]


class Sharing:
    """The shared cuts that are to come, by the connections of agents. Thread-safe.

    Args:
        volume: of this filter.
        server: where followers connect; None: this filter leads nothing.
        member: what it is where it follows.
    """

    def __init__(self, volume: FilteredVolume, server: LeadServer | None, member: Member) -> None:
        self._volume = volume
        self._server = server
        self._member = member
        self._lock = threading.Lock()
        self._led: dict[object, LedCut] = {}
        self._followed: dict[object, KeptByLead] = {}

    def lead(self, owner: object, name: str, key: bytes, followers: list[str]) -> str:
        """Keep the bytes of the owner's next cut for other nodes, too: wait for their filters.

        Args:
            owner: whose cut it is.
            name: of the cut on all nodes.
            key: which they have.
            followers: names of the other nodes.

        Returns:
            Where their filters find this one.

        Raises:
            SourceError: this filter can lead nothing.
        """
        self._require_direct()
        server = self._server
        if server is None:
            raise SourceError(
                f"volume {self._volume.disk.path}: its filter is no lead, because it does not "
                f"listen for other filters; set BACKCAST_FILTER_PEER_LISTEN"
            )
        if len(key) != KEY_SIZE_BYTES or not 1 <= len(set(followers)) < NODES_MAX:
            raise SourceError(f"cut {name}: expected a key, and one to {NODES_MAX - 1} followers")
        volume = self._volume
        cut = LedCut(name, key, frozenset(followers), volume.disk.size_bytes, volume.chunk_count)
        with self._lock:
            before, self._led[owner] = self._led.get(owner), cut
        if before:
            self.end_lead(before)
        server.add(cut)
        return server.address

    def follow(self, owner: object, name: str, key: bytes, node: str, address: str) -> None:
        """Let the lead keep the bytes of the owner's next cut: connect to its filter.

        Args:
            owner: whose cut it is.
            name: of the cut on all nodes.
            key: which they have.
            node: name of this one.
            address: of the lead's filter.

        Raises:
            SourceError: this filter can follow nobody.
            UnavailableError: the lead does not answer, or does not want this node.
        """
        self._require_direct()
        member, volume = self._member, self._volume
        kept = KeptByLead(
            address,
            key,
            Hello(name, node, "saves", volume.disk.size_bytes, member.epoch),
            volume.chunk_count,
            member.wait_seconds_max,
            member.tell_changes,
            member.on_end,
        )
        with self._lock:
            before, self._followed[owner] = self._followed.get(owner), kept
        if before:
            before.close()

    def led_by(self, owner: object) -> LedCut | None:
        """The cut that an agent's connection leads."""
        with self._lock:
            return self._led.get(owner)

    def followed_by(self, owner: object) -> KeptByLead | None:
        """What keeps the bytes of the cut that an agent's connection follows."""
        with self._lock:
            return self._followed.get(owner)

    def take(self, owner: object) -> None:
        """The cut counts, and is the frozen view's from here on."""
        with self._lock:
            self._led.pop(owner, None)
            self._followed.pop(owner, None)

    def end(self, owner: object) -> None:
        """An agent is gone, or is done."""
        with self._lock:
            led, followed = self._led.pop(owner, None), self._followed.pop(owner, None)
        if led:
            self.end_lead(led)
        if followed:
            followed.close()

    def end_lead(self, cut: LedCut) -> None:
        """A led cut is over."""
        if self._server:
            self._server.remove(cut)
        cut.close()

    def _require_direct(self) -> None:
        if not self._volume.disk.is_direct:
            raise SourceError(
                f"volume {self._volume.disk.path}: other nodes write it, and its filter goes "
                f"through this node's page cache, which does not see that; set "
                f"BACKCAST_FILTER_DIRECT=true"
            )
