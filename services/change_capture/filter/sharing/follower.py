"""A follower's side of a shared disk: its writes ask the lead, and the lead asks it.

Before a chunk is overwritten for the first time after the cut, the lead is asked to have saved it.
Writers that wait at the same time ask together. If the lead does not answer in time, or has let the
cut go, it is broken: from then on nothing is asked, every write goes on, and whoever asks this node
whether it broke the cut is told so, or finds nobody there.
"""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable

import msgspec

from libs.errors import BackcastError, DamagedDataError, UnavailableError
from libs.runtime.threads import start_thread
from libs.spans.sockets import end
from services.change_capture.drivers.port import TrackingLost
from services.change_capture.filter.keeping import Keeper
from services.change_capture.filter.marks.bitmap import ChunkBitmap
from services.change_capture.filter.sharing.channel import Channel, greet
from services.change_capture.filter.sharing.messages import (
    RUNS_MAX,
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

#: For the connection to the lead, before anybody holds anything.
_CONNECT_SECONDS = 5.0

#: Says what was written since a base, by the cut's token and the lead's question.
TellChanges = Callable[[str, AskChanges], ChunkBitmap | TrackingLost | None]


class KeptByLead:
    """A volume whose bytes of a cut another node's filter keeps. Thread-safe.

    Args:
        address: host:port of the lead's filter.
        key: of the cut.
        hello: of this filter, with the purpose of saving.
        chunk_count: chunks of the volume.
        wait_seconds_max: longest wait of one write for an answer.
        tell_changes: answers the lead.
        on_end: called once in a thread of its own when the lead is gone, or has let the cut go.

    Raises:
        UnavailableError: the lead does not answer, or does not want this node.
    """

    def __init__(  # noqa: PLR0913 -- the two ends of a link, and whom it tells
        self,
        address: str,
        key: bytes,
        hello: Hello,
        chunk_count: int,
        wait_seconds_max: float,
        tell_changes: TellChanges,
        on_end: Callable[["KeptByLead"], None],
    ) -> None:
        self._about = f"lead at {address}"
        self._wait_seconds_max = wait_seconds_max
        self._tell_changes = tell_changes
        self._on_end = on_end
        self._epoch = hello.epoch
        #: Of the cut on this node, once it counts.
        self.token = ""
        #: Chunks that the lead has saved, as it has said.
        self._saved = ChunkBitmap(chunk_count)
        #: Guards what follows; notified when any of it changes.
        self._changed = threading.Condition()
        self._wanted: list[tuple[int, int]] = []
        self._is_asking = False
        #: Questions that were begun, and those that were answered.
        self._begun = self._answered = 0
        self._broken: str | None = None
        questions = msgspec.structs.replace(hello, purpose="questions")
        with contextlib.ExitStack() as made:
            self._saves = self._connected(address, key, hello)
            made.callback(self._saves.connection.close)
            self._questions = self._connected(address, key, questions)
            made.pop_all()
        start_thread("questions of the lead", self._answer_questions, daemon=True)

    @property
    def broken(self) -> str | None:
        """As the port says."""
        return self._broken

    @property
    def kept_bytes(self) -> int:
        """As the port says; the lead has them all."""
        return 0

    def keep(self, first: int, last: int) -> None:
        """As the port says; the lead keeps them."""
        if self._broken is not None or self._is_saved(first, last):
            return
        until = time.monotonic() + self._wait_seconds_max
        with self._changed:
            self._wanted.append((first, last))
            mine = self._begun
        while True:
            with self._changed:
                if self.broken is not None or self._answered > mine:
                    return
                if self._is_asking:
                    if time.monotonic() >= until:
                        break
                    self._changed.wait(until - time.monotonic())
                    continue
                self._is_asking = True
                runs, self._wanted = self._wanted[:RUNS_MAX], self._wanted[RUNS_MAX:]
                is_all = not self._wanted
                self._begun += is_all
            self._ask_to_save(runs)
            with self._changed:
                self._is_asking = False
                self._answered = self._begun
                self._changed.notify_all()
        self.break_off(f"the {self._about} does not save chunks as fast as they are overwritten")

    def break_off(self, reason: str) -> None:
        """As the port says. The connections end, so the lead knows."""
        with self._changed:
            if self._broken is None:
                self._broken = reason
                log.info("cut of a shared disk let go", extra={"detail": reason})
            self._changed.notify_all()
        for channel in (self._saves, self._questions):
            with contextlib.suppress(OSError):
                end(channel.connection)

    def close(self) -> None:
        """As the port says."""
        self.break_off("it was closed")

    def _is_saved(self, first: int, last: int) -> bool:
        return all(chunk in self._saved for chunk in range(first, last + 1))

    def _ask_to_save(self, runs: list[tuple[int, int]]) -> None:
        """Ask for chunks; whatever goes wrong breaks the cut, and no write."""
        try:
            connection = self._saves.connection
            connection.settimeout(self._wait_seconds_max)
            self._saves.send(SaveChunks(runs))
            answer, _ = self._saves.receive(self._wait_seconds_max)
            broken = answer.broken if isinstance(answer, Saved) else "it answers something else"
        except (OSError, DamagedDataError) as err:
            broken = str(err)
        if broken is not None:
            self.break_off(f"the {self._about} has not saved a chunk: {broken}")
            return
        for first, last in runs:
            self._saved.mark(first, last)

    def _answer_questions(self) -> None:
        """Body of a thread."""
        try:
            while True:
                question, _ = self._questions.receive(None)
                self._questions.send(*self._answer(question))
        except (OSError, DamagedDataError) as err:
            self.break_off(f"the {self._about} is gone, or has let the cut go: {err}")
        finally:
            with contextlib.suppress(OSError):
                self._questions.connection.close()
            self._on_end(self)

    def _answer(self, question: Message) -> tuple[Message, bytes]:
        match question:
            case AskWhole():
                return Whole(self._broken, self._epoch), b""
            case AskChanges():
                return self._changes(question)
        raise DamagedDataError(f"the {self._about} asks what nobody knows: {question!r}")

    def _changes(self, question: AskChanges) -> tuple[Message, bytes]:
        try:
            found = self._tell_changes(self.token, question)
        except BackcastError as err:
            return Refused(str(err)), b""
        if isinstance(found, TrackingLost):
            return Changes(found.reason, found.message, has_bits=False), b""
        if found is None:
            return Changes(None, "", has_bits=False), b""
        return Changes(None, "", has_bits=True), found.packed()

    def _connected(self, address: str, key: bytes, hello: Hello) -> Channel:
        host, _, port = address.rpartition(":")
        try:
            connection = socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS)
            try:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                channel = greet(connection, key, hello, _CONNECT_SECONDS)
                welcome, _ = channel.receive(_CONNECT_SECONDS)
                refusal = welcome.refusal if isinstance(welcome, Welcome) else "no welcome"
                if refusal is not None:
                    raise UnavailableError(f"{self._about}: it refuses this node: {refusal}")
            except BaseException:
                connection.close()
                raise
        except (OSError, ValueError, DamagedDataError) as err:
            raise UnavailableError(
                f"{self._about}: it does not answer ({err}); can this node reach the address, and "
                f"does BACKCAST_FILTER_PEER_ADVERTISED of the lead's filter say the right one?"
            ) from err
        return channel


_: type[Keeper] = KeptByLead
