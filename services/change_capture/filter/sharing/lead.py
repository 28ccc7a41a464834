"""The lead's side of a shared disk: it saves chunks for the followers, and asks them.

A *led cut* waits for its followers before anybody holds: each opens two channels. From the cut on a
follower's writes ask the lead to save chunks (`FrozenBytes.keep`), and it saves each once, whoever
asks first. When the lead has read the last chunk it asks every follower whether it has overwritten
anything that nobody saved. A follower that is gone, that was started anew or that does not answer
has said no such thing: its channels are gone, so the frozen view is broken.
"""

import contextlib
import logging
import socket
import threading
from dataclasses import dataclass

from libs.errors import BackcastError, DamagedDataError, SourceError
from libs.runtime.threads import start_thread
from libs.spans.sockets import end
from services.change_capture.drivers.port import TrackingLost
from services.change_capture.filter.frozen import FrozenBytes
from services.change_capture.filter.marks.bitmap import ChunkBitmap
from services.change_capture.filter.sharing.channel import Channel, Greeting
from services.change_capture.filter.sharing.messages import (
    AskChanges,
    AskWhole,
    Changes,
    Hello,
    Message,
    Refused,
    SaveChunks,
    Saved,
    Welcome,
    Whole,
)

log = logging.getLogger(__name__)

#: For what a follower says when it has connected, and for each answer of it.
_GREETING_SECONDS = 5.0
_ANSWER_SECONDS = 10.0
#: Bits of 64 TiB, packed.
_BITS_SIZE_BYTES_MAX = 1 << 28
#: Connections at once, known and unknown: seven followers of each of a few cuts.
_CONNECTIONS_MAX = 128


@dataclass(slots=True)
class _Follower:
    """A node that asks, and is asked."""

    epoch: str
    saves: Channel | None = None
    questions: Channel | None = None

    @property
    def is_there(self) -> bool:
        """Whether both of its channels stand."""
        return self.saves is not None and self.questions is not None


class LedCut:
    """One cut of a shared disk, of which this filter is the lead. Thread-safe.

    Args:
        name: of the cut, the same on all its nodes.
        key: proves that somebody takes part.
        followers: names of the other nodes.
        size_bytes: of the volume.
        chunk_count: chunks of it.
    """

    def __init__(
        self, name: str, key: bytes, followers: frozenset[str], size_bytes: int, chunk_count: int
    ) -> None:
        self.name = name
        self.key = key
        self._size_bytes = size_bytes
        self._chunk_count = chunk_count
        self._names = followers
        self._lock = threading.Lock()
        self._followers: dict[str, _Follower] = {}
        self._frozen: FrozenBytes | None = None
        self._is_over = False
        self._broken: str | None = None

    def require_all(self) -> None:
        """See to it that every follower is there, before anything is held or cut.

        Raises:
            SourceError: one is not.
        """
        with self._lock:
            there = {node for node, one in self._followers.items() if one.is_there}
            if missing := sorted(self._names - there):
                raise SourceError(
                    f"cut {self.name}: the filters of {', '.join(missing)} are not connected to "
                    f"the lead; take the snapshot again"
                )

    def begin(self, frozen: FrozenBytes) -> None:
        """The frozen view begins: from here on chunks are saved into it."""
        with self._lock:
            self._frozen = frozen
            broken = self._broken
        if broken is not None:
            frozen.break_off(broken)

    def serve(self, hello: Hello, channel: Channel) -> None:
        """Serve a follower's channel; of questions, only keep it.

        Raises:
            DamagedDataError: it says what has no meaning here.
            OSError: the connection broke.
        """
        refusal = self._why_unwanted(hello, channel)
        channel.send(Welcome(refusal))
        if refusal is not None:
            channel.connection.close()
            return
        if hello.purpose == "questions":
            return
        try:
            while True:
                message, _ = channel.receive(None)
                if not isinstance(message, SaveChunks):
                    raise DamagedDataError(f"follower {hello.node}: expected chunks to save")
                channel.send(Saved(self._save(message)))
        finally:
            self._lost(hello.node, "its filter has ended, or could not wait for the lead")

    def union(
        self, ours: ChunkBitmap | TrackingLost | None, question: AskChanges
    ) -> ChunkBitmap | TrackingLost | None:
        """What any node has written; each follower learns which session the cut is.

        Args:
            ours: what this node has written.
            question: what is asked of each follower.

        Returns:
            All that was written since the base; or why that is not known, of the first node that
            does not know; None: no base was named.

        Raises:
            SourceError: a follower does not answer, and the frozen view is broken.
        """
        found = ours
        for node in sorted(self._names):
            answer, packed = self._ask(node, question, _BITS_SIZE_BYTES_MAX)
            if isinstance(answer, Refused):
                raise SourceError(f"node {node}: {answer.message}")
            if not isinstance(answer, Changes):
                raise SourceError(f"node {node}: its filter does not answer what it was asked")
            if isinstance(found, TrackingLost) or question.base is None:
                continue
            if answer.lost_reason is not None or not answer.has_bits:
                reason = answer.lost_reason or "unknown"
                found = TrackingLost(reason, f"node {node}: {answer.lost_message}")
                continue
            assert found is not None
            found.add_packed(packed)
        return found

    def why_broken(self) -> str | None:
        """Whether any node has overwritten what nobody saved; asked after the last read."""
        for node in sorted(self._names):
            try:
                answer, _ = self._ask(node, AskWhole())
            except SourceError as err:
                return str(err)
            with self._lock:
                epoch = self._followers[node].epoch
            if not isinstance(answer, Whole) or answer.epoch != epoch:
                return f"node {node}: its filter was started anew since the cut"
            if answer.broken is not None:
                return f"node {node}: {answer.broken}"
        return self._broken

    def close(self) -> None:
        """Let the followers go: their writes ask nobody any more."""
        with self._lock:
            self._is_over = True
            followers, self._followers = self._followers, {}
        for one in followers.values():
            for channel in (one.saves, one.questions):
                if channel is not None:
                    _end(channel.connection)

    def _why_unwanted(self, hello: Hello, channel: Channel) -> str | None:
        """Why a channel is refused; None: it is the follower's now."""
        with self._lock:
            if self._is_over or self._broken is not None:
                return "this cut is over"
            if hello.node not in self._names:
                return f"node {hello.node} does not write this volume, as far as the lead was told"
            if hello.size_bytes != self._size_bytes:
                return (
                    f"its volume has {hello.size_bytes} bytes, and the lead's {self._size_bytes}: "
                    f"it is not the same disk"
                )
            one = self._followers.setdefault(hello.node, _Follower(hello.epoch))
            if getattr(one, hello.purpose) is not None or one.epoch != hello.epoch:
                return "it is connected already"
            setattr(one, hello.purpose, channel)
        return None

    def _save(self, message: SaveChunks) -> str | None:
        """Why chunks are not saved; None: they are."""
        frozen = self._frozen
        if frozen is None:
            return "the lead was not cut"
        for first, last in message.runs:
            if not 0 <= first <= last < self._chunk_count:
                raise DamagedDataError(f"chunks {first} to {last}: there are {self._chunk_count}")
            frozen.keep(first, last)
        return frozen.broken

    def _ask(
        self, node: str, question: AskWhole | AskChanges, content_size_bytes_max: int = 0
    ) -> tuple[Message, bytes]:
        with self._lock:
            one = self._followers.get(node)
            channel = one.questions if one else None
        try:
            if channel is None:
                raise ConnectionError("it is not connected")
            channel.connection.settimeout(_ANSWER_SECONDS)
            channel.send(question)
            return channel.receive(_ANSWER_SECONDS, content_size_bytes_max)
        except (OSError, DamagedDataError) as err:
            self._lost(node, f"its filter does not answer ({err})")
            raise SourceError(
                f"node {node}: its filter does not answer ({err}), so that nobody knows whether it "
                f"has overwritten bytes of the cut; take the snapshot again"
            ) from err

    def _lost(self, node: str, reason: str) -> None:
        """A follower is gone: what it overwrites from now on, nobody saves."""
        with self._lock:
            if self._is_over or self._broken is not None:
                return
            self._broken = f"node {node}: {reason}"
            one, frozen = self._followers.pop(node, None), self._frozen
        for channel in (one.saves, one.questions) if one else ():
            if channel is not None:
                _end(channel.connection)
        if frozen is not None:
            frozen.break_off(self._broken)


class LeadServer:
    """Where followers connect; it knows the cuts that this filter leads. Thread-safe.

    Args:
        listener: bound socket; the server's.
        advertised: host:port under which followers reach it.
    """

    def __init__(self, listener: socket.socket, advertised: str) -> None:
        self.address = advertised
        self._listener = listener
        self._lock = threading.Lock()
        self._cuts: dict[str, LedCut] = {}
        self._connection_count = 0
        self._acceptor = start_thread("followers", self._accept, daemon=True)

    def add(self, cut: LedCut) -> None:
        """Let followers take part in a cut."""
        with self._lock:
            self._cuts[cut.name] = cut

    def remove(self, cut: LedCut) -> None:
        """A cut is over."""
        with self._lock:
            if self._cuts.get(cut.name) is cut:
                del self._cuts[cut.name]

    def close(self) -> None:
        """Accept nobody any more. Whoever leads a cut closes that."""
        with contextlib.suppress(OSError):
            end(self._listener)
        self._acceptor.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError as err:
                log.info("no followers any more", extra={"detail": str(err)})
                return
            with self._lock:
                is_full = self._connection_count >= _CONNECTIONS_MAX
                self._connection_count += not is_full
            if is_full:
                log.warning("follower refused", extra={"count_max": _CONNECTIONS_MAX})
                connection.close()
            else:
                start_thread("follower", self._serve, connection, daemon=True)

    def _serve(self, connection: socket.socket) -> None:
        is_kept = False
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(_GREETING_SECONDS)
            greeting = Greeting(connection, _GREETING_SECONDS)
            with self._lock:
                cut = self._cuts.get(greeting.hello.cut)
            if cut is None:
                raise DamagedDataError(f"cut {greeting.hello.cut!r}: this filter does not lead it")
            channel = greeting.accept(cut.key)
            is_kept = greeting.hello.purpose == "questions"
            cut.serve(greeting.hello, channel)
        except (OSError, BackcastError) as err:
            log.info("follower gone", extra={"detail": str(err)})
            is_kept = False
        finally:
            if not is_kept:
                connection.close()
            with self._lock:
                self._connection_count -= 1


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end(connection)
