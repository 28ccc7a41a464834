"""Chunks from the agent that serves a capture: dialling it, asking for a span, receiving.

A connection that breaks is dialled again, and the rest of the span is asked for. The agent may have
let go of the span, or not: it is asked the same way, and reads the chunks again if they have left
its window.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from libs.catalogdb.sessions.session import PartView
from libs.errors import UnavailableError
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import runs_of
from libs.runtime.retries import tried_again
from libs.spans.connection import SpanConnection
from services.chunker.packer import StaleAttemptError

#: A connection to the agent that breaks is dialled again for so long: a switch that reboots costs a
#: pause, not the session. An agent that was restarted refuses at once.
_REDIAL_SECONDS_MAX = 15.0

#: Connects to the agent that captures a part, if it is still the same process (its boot).
Dial = Callable[[PartView, UUID], SpanConnection]


class AgentLine:
    """The connections of one attempt to its agent. Thread-safe.

    Args:
        part: says where the agent is, and what it knows us by.
        boot: the agent process that must answer.
        dial: connects.
    """

    def __init__(self, part: PartView, boot: UUID, dial: Dial) -> None:
        self._part = part
        self._boot = boot
        self._dial = dial
        self._connections: list[SpanConnection] = []
        self._closed = False
        self._lock = threading.Lock()

    def connect(self) -> SpanConnection:
        """One attempt to connect.

        Raises:
            StaleAttemptError: the line was closed.
            UnavailableError: the agent does not answer.
            SourceError: it cannot serve the capture any more.
        """
        connection = self._dial(self._part, self._boot)
        with self._lock:
            self._connections.append(connection)
            closed = self._closed
        if closed:  # `close` may have been before us
            connection.close()
            raise StaleAttemptError
        return connection

    @tried_again(_REDIAL_SECONDS_MAX)
    def connect_patiently(self) -> SpanConnection:
        """As `connect`, tried again for a while."""
        return self.connect()

    def close(self) -> None:
        """Close every connection, also those that somebody waits for; there will be no others."""
        with self._lock:
            self._closed = True
            for connection in self._connections:
                connection.close()


@dataclass(slots=True)
class SpanRequest:
    """The wanted chunks of one span, received in their order. Used by one thread.

    Args:
        line: dials again if the connection breaks.
        connection: to ask by; another one if it broke.
        batch: number of the span.
        wanted: for each of the span's chunks, whether it is asked for.
        indexes: where the wanted ones lie in the volume, ascending.
    """

    line: AgentLine
    connection: SpanConnection
    batch: int
    wanted: Sequence[bool]
    indexes: Sequence[int]
    #: Chunks that were received.
    taken: int = 0
    _is_asked: bool = False

    def receive(self, view: memoryview) -> None:
        """Receive as many chunks as fit in ``view``; an empty view tells the agent what is wanted.

        Raises:
            StaleAttemptError: the line was closed.
            SourceError: the agent cannot serve the capture any more.
            UnavailableError: it does not answer for longer than retries last.
        """
        self._receive(view)
        self.taken += len(view) // CHUNK_SIZE_BYTES

    @tried_again(_REDIAL_SECONDS_MAX)
    def _receive(self, view: memoryview) -> None:
        try:
            if not self._is_asked:
                self._ask()
                self._is_asked = True
            self.connection.receive_into(view)
        except UnavailableError:
            self._is_asked = False
            self.connection.close()
            raise

    def _ask(self) -> None:
        if not self.connection.is_usable:
            self.connection = self.line.connect()
        left = set([at for at, want in enumerate(self.wanted) if want][self.taken :])
        wanted = [at in left for at in range(len(self.wanted))]
        if not self.connection.want(self.batch, wanted, CHUNK_SIZE_BYTES):
            runs = list(runs_of(self.indexes[self.taken :]))
            self.connection.reread(runs, CHUNK_SIZE_BYTES)
