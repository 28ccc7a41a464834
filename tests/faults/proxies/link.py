"""Proxies on loopback that pass requests on, one at a time, unless a fault strikes.

A proxy knows its protocol just well enough to tell requests and answers apart. Each request is
labelled ``CLIENT WHAT``, such as ``chunker PUT packs/3f/3f…`` or ``catalog COMMIT``; a `Fault`
picks its victim by a pattern over labels and a number, so it strikes at an exact point, before or
after the effect, without any hook in the programs under test.
"""

import contextlib
import re
import select
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_RECEIVE_SIZE_BYTES = 1 << 18

Address = tuple[str, int]


class Cut(Exception):  # noqa: N818 -- an order, not an error
    """End the connection at both ends, now."""


@dataclass(frozen=True)
class Exchange:
    """One request, and what can be done with it."""

    label: str
    request: bytes
    #: Sends a request, this one or another, to the server; gives the whole answer.
    ask: Callable[[bytes], bytes]
    #: Sends bytes to the client.
    reply: Callable[[bytes], None]
    #: Sends bytes to the server without waiting.
    send: Callable[[bytes], None]


class Fault(ABC):
    """Strikes requests ``nth`` to ``nth + count - 1`` of those whose label matches.

    Args:
        pattern: regular expression, searched in labels.
        nth: the first that is struck, from 1.
        count: how many are struck.
    """

    def __init__(self, pattern: str, nth: int = 1, count: int = 1) -> None:
        self._pattern = re.compile(pattern)
        self._range = range(nth, nth + count)
        self._seen = 0
        self._lock = threading.Lock()
        #: Set once the fault has struck for the first time.
        self.struck = threading.Event()

    def claims(self, label: str) -> bool:
        """Whether this request is to be struck; counts it."""
        if not self._pattern.search(label):
            return False
        with self._lock:
            self._seen += 1
            return self._seen in self._range

    @abstractmethod
    def strike(self, exchange: Exchange) -> None:
        """Do with the exchange what the fault does."""


class ConnectionLost(Fault):
    """A network or load balancer drops the connection before the request reached the server."""

    def strike(self, exchange: Exchange) -> None:
        raise Cut


class AnswerLost(Fault):
    """The server did it, then the connection broke: an error does not mean that nothing happened.

    Seen with every fail-over of a load balancer, NAT table or switch, and with client time-outs.
    """

    def strike(self, exchange: Exchange) -> None:
        exchange.ask(exchange.request)
        raise Cut


class Delayed(Fault):
    """A server that is busy, collects garbage, waits for a disk or for a saturated link.

    Args:
        pattern: see `Fault`.
        nth: see `Fault`.
        count: see `Fault`.
        seconds: how long each of them waits.
    """

    def __init__(self, pattern: str, nth: int = 1, count: int = 1, seconds: float = 2) -> None:
        super().__init__(pattern, nth, count)
        self._seconds = seconds

    def strike(self, exchange: Exchange) -> None:
        threading.Event().wait(self._seconds)
        exchange.reply(exchange.ask(exchange.request))


class DeliveredTwice(Fault):
    """A proxy or client library that retries by itself: the server does the same thing twice."""

    def strike(self, exchange: Exchange) -> None:
        exchange.ask(exchange.request)
        exchange.reply(exchange.ask(exchange.request))


class CutOffAnswer(Fault):
    """The connection breaks in the middle of an answer: half of it arrives."""

    def strike(self, exchange: Exchange) -> None:
        answer = exchange.ask(exchange.request)
        exchange.reply(answer[: len(answer) // 2])
        raise Cut


class CutOffRequest(Fault):
    """The connection breaks in the middle of a request: the server gets half of it."""

    def strike(self, exchange: Exchange) -> None:
        exchange.send(exchange.request[: len(exchange.request) // 2])
        raise Cut


class Trigger(Fault):
    """Does something else at an exact point, such as to kill a process, then passes it on.

    Args:
        pattern: see `Fault`.
        nth: see `Fault`.
        before: what is done before the server gets the request; told who sends it.
        after: what is done when the server has answered, before the client knows; told the same.
    """

    def __init__(
        self,
        pattern: str,
        nth: int = 1,
        *,
        before: Callable[[str], None] = lambda _: None,
        after: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(pattern, nth)
        self._before = before
        self._after = after

    def strike(self, exchange: Exchange) -> None:
        sender = exchange.label.split()[0]
        self._before(sender)
        answer = exchange.ask(exchange.request)
        self._after(sender)
        exchange.reply(answer)


class Proxy(ABC):
    """Listens on a free port of the loopback address; a thread per connection.

    Args:
        upstream: where the server is; asked for at each connection.
        name_of: name of the process that has this local port connected, for labels.
    """

    def __init__(
        self, upstream: Callable[[], Address], name_of: Callable[[int], str] = lambda _: "client"
    ) -> None:
        self._upstream = upstream
        self._name_of = name_of
        self._faults: list[Fault] = []
        self._links: set[Link] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name=type(self).__name__, daemon=True).start()

    @contextlib.contextmanager
    def striking(self, fault: Fault) -> Iterator[Fault]:
        """Let a fault strike while the block runs."""
        with self._lock:
            self._faults.append(fault)
        try:
            yield fault
        finally:
            with self._lock:
                self._faults.remove(fault)

    def cut_all(self) -> None:
        """A switch reboots: every connection ends at both ends."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.cut()

    def close(self) -> None:
        """Accept no more connections and end those that there are."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()

    @abstractmethod
    def converse(self, link: "Link") -> None:
        """Pass one connection on until it ends; errors of sockets and `Cut` may leave it."""

    def play(self, link: "Link", what: str, request: bytes, ask: Callable[[bytes], bytes]) -> None:
        """Perform one exchange, or let a fault do so."""
        label = f"{link.client_name} {what}"
        exchange = Exchange(label, request, ask, link.client.sendall, link.server.sendall)
        with self._lock:
            fault = next((fault for fault in self._faults if fault.claims(label)), None)
        if fault is None:
            exchange.reply(ask(request))
            return
        try:
            fault.strike(exchange)
        finally:
            fault.struck.set()

    def _accept(self) -> None:
        while True:
            try:
                client, (_, port) = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(client, port), daemon=True).start()

    def _serve(self, client: socket.socket, port: int) -> None:
        # Errors of sockets are what killed processes look like from here: both ends learn of it.
        with contextlib.suppress(OSError, Cut, ValueError), client:
            name = self._name_of(port)
            with socket.create_connection(self._upstream(), timeout=30) as server:
                server.settimeout(None)
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                link = Link(client, server, name)
                with self._lock:
                    self._links.add(link)
                try:
                    self.converse(link)
                finally:
                    with self._lock:
                        self._links.discard(link)


class Link:
    """Both ends of a connection through a proxy."""

    def __init__(self, client: socket.socket, server: socket.socket, client_name: str) -> None:
        self.client = client
        self.server = server
        self.client_name = client_name

    def await_request(self) -> None:
        """Return when the client talks; a server that talks or leaves unasked ends the link."""
        ready, _, _ = select.select([self.client, self.server], [], [])
        if self.server in ready:
            raise Cut

    def cut(self) -> None:
        """End it, whoever waits for it in another thread."""
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def receive(peer: socket.socket, size: int) -> bytes:
    """Exactly ``size`` bytes; `Cut` if the peer leaves before."""
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        got = peer.recv_into(view[:_RECEIVE_SIZE_BYTES])
        if got == 0:
            raise Cut
        view = view[got:]
    return bytes(buffer)


def pid_of_connection(client_port: int, server_port: int, candidates: list[int]) -> int | None:
    """Which of these processes has the connection between two ports of the loopback address."""
    wanted = (f"0100007F:{client_port:04X}", f"0100007F:{server_port:04X}")
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    inodes = {f[9] for f in (line.split() for line in lines) if (f[1], f[2]) == wanted}
    links = {f"socket:[{inode}]" for inode in inodes}
    for pid in candidates:
        for descriptor in _descriptors(pid):
            with contextlib.suppress(OSError):  # closed meanwhile
                if str(descriptor.readlink()) in links:
                    return pid
    return None


def _descriptors(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return []  # it ended
