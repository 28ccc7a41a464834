"""Keep-alive HTTP/1.1 connections to one origin, for large bodies without copies.

http.client underneath, because it is the only common client that sends a memoryview as it is and
reads a response straight into the caller's buffer (figures in docs/adr/0003). One attempt per
exchange, no redirects, no proxies from the environment: what is not here cannot surprise.
"""

import http.client
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from libs.errors import ConfigurationError, UnavailableError
from libs.rest.deadline import Deadline, with_deadline
from libs.runtime.tls import ClientTls, explain

#: Idle connections kept; a process has at most this many byte threads.
_IDLE_COUNT_MAX = 32
#: A socket's timeout covers one whole send call, so bodies go in pieces: 1 MiB in 60 s is a link of
#: 0.15 Mbit/s, while 32 MiB at once would make every link below 4.5 Mbit/s fail for ever.
_SEND_SIZE_BYTES = 1 << 20

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait for a server."""

    connect_seconds: float = 5.0
    #: For each piece sent or received, not for the whole exchange.
    read_seconds: float = 60.0
    #: How long a connection may lie idle and be used again. Below the shortest keep-alive time in
    #: common use (5 s: Apache httpd, uvicorn): a server that closes just as the next request
    #: arrives answers it with a reset, and nobody can tell whether it was carried out.
    idle_seconds: float = 4.0
    #: For a whole exchange, from the request to the last byte of the answer, however it drips: a
    #: pack of 32 MiB at 0.45 Mbit/s.
    total_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port of a server."""

    scheme: str
    host: str
    port: int

    @staticmethod
    def parse(url: str) -> "Origin":
        """The origin of an endpoint such as ``https://s3.example.org:9000``.

        Raises:
            ConfigurationError: not http(s), no host, or more than an origin (path, query,
                credentials).
        """
        try:
            parts = urlsplit(url)
            scheme, host, port = parts.scheme, parts.hostname, parts.port
        except ValueError:
            scheme, host, port, parts = "", None, None, urlsplit("")
        if (
            scheme not in _DEFAULT_PORTS
            or not host
            or parts.path.strip("/")
            or parts.query
            or "@" in parts.netloc
        ):
            # The text is not repeated, since it may hold credentials.
            raise ConfigurationError(
                "endpoint URL: expected http://HOST[:PORT] or https://HOST[:PORT] and nothing else"
            )
        return Origin(scheme, host, port or _DEFAULT_PORTS[scheme])

    @property
    def authority(self) -> str:
        """Host and, unless it is the scheme's own, port: the value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


class ConnectionPool:
    """Connections to one origin, made when needed and reused; any number of threads may use it."""

    def __init__(
        self,
        origin: Origin,
        timeouts: Timeouts | None = None,
        ca_file: Path | None = None,
        server_name: str | None = None,
        admit: Callable[[str], None] | None = None,
    ) -> None:
        """Make an empty pool.

        Args:
            origin: where to connect.
            timeouts: the default suits a data center.
            ca_file: PEM file of the authorities to trust for https; the system's if None.
            server_name: name that the server's certificate must have; the origin's host if None.
            admit: is given the IP address of each new connection before anything is asked there,
                and raises if it must not be used: what a name means may change between two looks.

        Raises:
            ConfigurationError: the CA file cannot be read.
        """
        self.origin = origin
        self._admit = admit
        self._timeouts = timeouts or Timeouts()
        self._tls = ClientTls(ca_file) if origin.scheme == "https" else None
        self._server_name = server_name or origin.host
        #: Each with the moment since when it lies idle, of the monotonic clock; the latest is last.
        self._idle: list[tuple[http.client.HTTPConnection, float]] = []
        self._lock = threading.Lock()

    @contextmanager
    def exchange(
        self,
        what: str,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: memoryview | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """Send one request and give its response, to be read inside the ``with``.

        The connection is kept for others only if the response was read to its end.

        Args:
            what: names the operation in error messages; ``target`` may hold a signature and is not
                shown.
            method: HTTP method.
            target: path and query as sent.
            headers: without Content-Length, which is set here.
            body: sent from where it lies; None sends no body.

        Raises:
            UnavailableError: cannot connect, no answer in time or no end of it, or the connection
                broke, also while the caller reads the response.
            ConfigurationError: the server's certificate is not trusted.
        """
        connection: http.client.HTTPConnection | None = None
        reusable = False
        try:
            connection = self._take()
            deadline = with_deadline(
                connection, self._timeouts.read_seconds, self._timeouts.total_seconds
            )
            deadline.begin()
            sent_whole = _send(connection, method, target, headers, body, deadline)
            response = connection.getresponse()
            if response.length is None and not response.chunked:
                # http.client takes the end of a broken connection for the end of the header.
                raise http.client.HTTPException("header cut off, or without a length")
            reusable = sent_whole and not response.will_close
            yield response
        except ssl.SSLCertVerificationError as error:
            raise ConfigurationError(f"{what} at {self.origin}: {explain(error)}") from error
        except (OSError, http.client.HTTPException) as error:
            reusable = False
            advice = "; does that port speak TLS?" if isinstance(error, ssl.SSLError) else ""
            raise UnavailableError(
                f"{what} at {self.origin}: {_in_words(error)}{advice}"
            ) from error
        finally:
            if connection is not None:
                if reusable and response.isclosed():
                    self._give_back(connection)
                else:
                    connection.close()

    def close(self) -> None:
        """Close the idle connections; those in use close when their exchange ends with an error."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def _take(self) -> http.client.HTTPConnection:
        while True:
            with self._lock:
                if not self._idle:
                    break
                connection, since = self._idle.pop()
            if time.monotonic() - since < self._timeouts.idle_seconds and _is_quiet(connection):
                return connection
            connection.close()
        return self._connect()

    def _connect(self) -> http.client.HTTPConnection:
        host, port, timeout = self.origin.host, self.origin.port, self._timeouts.connect_seconds
        connection = (
            http.client.HTTPConnection(host, port, timeout=timeout)
            if self._tls is None
            else _HttpsConnection(host, port, timeout, self._tls.current(), self._server_name)
        )
        connection.connect()
        if self._admit is not None:
            try:
                self._admit(connection.sock.getpeername()[0])
            except BaseException:
                connection.close()
                raise
        return connection

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < _IDLE_COUNT_MAX:
                self._idle.append((connection, time.monotonic()))
                return
        connection.close()


class _HttpsConnection(http.client.HTTPConnection):
    """As that of `http.client`, but the certificate may be for another name than the address."""

    def __init__(
        self, host: str, port: int, timeout: float, context: ssl.SSLContext, server_name: str
    ) -> None:
        super().__init__(host, port, timeout=timeout)
        self._context = context
        self._server_name = server_name

    def connect(self) -> None:
        """Connect, shake hands, and verify who is there."""
        super().connect()
        self.sock = self._context.wrap_socket(self.sock, server_hostname=self._server_name)


def _in_words(error: OSError | http.client.HTTPException) -> str:
    """What happened, without the number of the system's error."""
    match error:
        case ConnectionRefusedError():
            return "connection refused: nothing listens there; does the service run?"
        case TimeoutError(args=[text]) if text != "timed out":  # our own deadline says which
            return str(text)
        case TimeoutError():
            return "no answer in time"
        case socket.gaierror():
            return "the name of its host is not known"
        case ConnectionResetError() | BrokenPipeError() | http.client.RemoteDisconnected():
            return "the connection was closed before the answer"
    text = error.strerror if isinstance(error, OSError) else None
    return text or f"{type(error).__name__}: {error}"


def _send(  # noqa: PLR0913 -- what a request is, and its connection
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: memoryview | None,
    deadline: Deadline,
) -> bool:
    """Send a request; False if the server stopped listening before the end of the body."""
    if body is None:
        connection.request(method, target, headers=dict(headers))
        return True
    try:
        pieces = _pieces(body, deadline)
        connection.request(method, target, pieces, {**headers, "Content-Length": str(body.nbytes)})
    except (BrokenPipeError, ConnectionResetError):
        # A server that refuses early (403, 503) answers and closes; the answer says more than the
        # break.
        return False
    return True


def _pieces(body: memoryview, deadline: Deadline) -> Iterator[memoryview]:
    for at in range(0, body.nbytes, _SEND_SIZE_BYTES):
        deadline.next_piece()
        yield body[at : at + _SEND_SIZE_BYTES]


def _is_quiet(connection: http.client.HTTPConnection) -> bool:
    """Whether an idle connection is still open: nothing to read means neither data nor an end."""
    if connection.sock is None:
        return False
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return not poll.poll(0)
