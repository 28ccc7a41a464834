"""The peers of a span server: connections that named a capture and its token.

A peer has a thread and a place. When all places of its capture are taken, or all that there are,
the peer that has asked for nothing for the longest time makes room. Peers whose request is in work
are never closed for others.
"""

import contextlib
import socket
import threading
from dataclasses import dataclass
from uuid import UUID

from libs.spans.sockets import end
from services.change_capture.agent.spans.limits import SpanLimits


@dataclass(eq=False, slots=True, frozen=True)
class Peer:
    """A connection that is served."""

    connection: socket.socket
    #: The capture whose token it showed.
    capture: UUID


class Peers:
    """Who is served at the same time. Thread-safe.

    Args:
        limits: of the span server.
    """

    def __init__(self, limits: SpanLimits) -> None:
        self._limits = limits
        self._of_capture: dict[UUID, set[Peer]] = {}
        self._count = 0
        #: Those that have no request in work; the one that has waited longest is first.
        self._idle: dict[Peer, None] = {}
        self._lock = threading.Lock()

    def enter(self, connection: socket.socket, capture: UUID) -> Peer | None:
        """A place for a new peer, which has asked for nothing yet; None: there is no room.

        The caller ends the peer's thread with `leave`.
        """
        with self._lock:
            same = self._of_capture.get(capture, set())
            if len(same) >= self._limits.peer_count_of_capture_max:
                if not self._make_room(same):
                    return None
            elif self._count >= self._limits.peer_count_max and not self._make_room(None):
                return None
            peer = Peer(connection, capture)
            self._of_capture.setdefault(capture, set()).add(peer)
            self._count += 1
            self._idle[peer] = None
            return peer

    def rest(self, peer: Peer) -> None:
        """Note that a peer's request is done, so that it may have to make room again."""
        with self._lock:
            if self._is_here(peer):
                self._idle[peer] = None

    def work(self, peer: Peer) -> bool:
        """Note that a peer's request is in work; False: it had to make room and is not served."""
        with self._lock:
            self._idle.pop(peer, None)
            return self._is_here(peer)

    def leave(self, peer: Peer) -> None:
        """Give a place back; harmless for a peer that had to make room."""
        with self._lock:
            self._idle.pop(peer, None)
            self._remove(peer)

    def _make_room(self, among: set[Peer] | None) -> bool:
        chosen = next((one for one in self._idle if among is None or one in among), None)
        if chosen is None:
            return False
        del self._idle[chosen]
        self._remove(chosen)
        with contextlib.suppress(OSError):
            end(chosen.connection)  # its thread closes it
        return True

    def _is_here(self, peer: Peer) -> bool:
        return peer in self._of_capture.get(peer.capture, ())

    def _remove(self, peer: Peer) -> None:
        if not self._is_here(peer):
            return
        same = self._of_capture[peer.capture]
        same.discard(peer)
        self._count -= 1
        if not same:
            del self._of_capture[peer.capture]
