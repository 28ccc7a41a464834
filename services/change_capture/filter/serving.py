"""The listeners and connections of a filter's clients."""

import contextlib
import errno
import logging
import os
import shutil
import socket
import threading
import time
from pathlib import Path

from libs.errors import ConfigurationError, DamagedDataError
from libs.nbd.export import Export
from libs.nbd.server.events import StandingSession, TlsMode
from libs.nbd.server.session import ServerSession
from libs.runtime.threads import start_thread
from libs.runtime.tls import ServerTls
from libs.spans.sockets import end, limit_receiving
from services.change_capture.filter.clients.traffic import Traffic
from services.change_capture.filter.connection import Connection, Pause
from services.change_capture.filter.volume import FilteredVolume

log = logging.getLogger(__name__)

#: How often a thread that nobody sends anything looks whether it shall stop.
_LOOK_SECONDS = 0.2
#: Clients that a stop waits for; then their connections are cut.
_STOP_SECONDS_MAX = 10.0
#: What the kernel may hold of replies that a client has not taken: a long read at once.
_SEND_BUFFER_SIZE_BYTES = 4 << 20
_UNIX = "unix:"


class Serving:
    """Accepts clients and serves each from a thread of its own, until it is stopped.

    Args:
        listeners: bound sockets.
        volume: what is served.
        export: as it is offered.
        connection_count_max: clients at once; further ones are turned away.
        tls: what clients are shown, who must ask for TLS before all else; None: there is no TLS.
    """

    def __init__(
        self,
        listeners: list[socket.socket],
        volume: FilteredVolume,
        export: Export,
        connection_count_max: int,
        tls: ServerTls | None = None,
    ) -> None:
        self.listeners = listeners
        self._volume = volume
        self._export = export
        self._connection_count_max = connection_count_max
        self._tls = tls
        self._tls_mode = TlsMode.NONE if tls is None else TlsMode.REQUIRED
        self._lock = threading.Lock()
        self._threads: dict[Connection, threading.Thread] = {}
        self._pause = Pause()
        #: Connections whose threads have stopped, and that still stand.
        self._standing: list[Connection] = []
        self._acceptors: list[threading.Thread] = []
        #: Of connections that have ended.
        self._past = Traffic()
        #: Clients that were turned away because there were too many.
        self.refused_count = 0

    def start(self, taken_over: list[tuple[socket.socket, StandingSession]]) -> None:
        """Begin to serve, first those clients whom another process has served until now.

        Raises:
            DamagedDataError: what that process says of a client cannot be.
        """
        for number, (peer, standing) in enumerate(taken_over):
            name = f"taken over {number}"
            self._begin(name, peer, ServerSession.resumed(name, self._export, standing))
        self._start_acceptors()

    def resume(self) -> None:
        """Go on after a pause, with all connections that still stand."""
        self._pause.end()
        with self._lock:
            standing, self._standing = self._standing, []
            for connection in standing:
                self._start(connection)
        self._start_acceptors()

    def _start_acceptors(self) -> None:
        self._acceptors = [
            start_thread(f"accept {number}", self._accept, one, daemon=True)
            for number, one in enumerate(self.listeners)
        ]

    @property
    def count(self) -> int:
        """Clients now."""
        with self._lock:
            return len(self._threads)

    def traffic(self) -> Traffic:
        """What all clients have asked for since the process started."""
        total = Traffic()
        with self._lock:
            total.add(self._past)
            for connection in (*self._threads, *self._standing):
                total.add(connection.traffic)
        return total

    def pause(self, handshake_seconds: float = 0.0) -> list[Connection]:
        """Let every thread end at a quiet moment; the connections that still stand.

        Connections of clients that take no reply, or send no whole request, in ten seconds are cut.

        Args:
            handshake_seconds: handshakes under way may go on for so long.
        """
        self._pause.begin(handshake_seconds)
        for thread in self._acceptors:
            thread.join()
        until = time.monotonic() + _STOP_SECONDS_MAX
        with self._lock:
            threads = dict(self._threads)
        for connection, thread in threads.items():
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                log.warning("connection cut", extra={"client": connection.name})
                with contextlib.suppress(OSError):
                    end(connection.socket)
                thread.join()
        return list(self._standing)

    def retire(self) -> None:
        """Let go of all sockets after a pause; what another process has of them stands."""
        standing, self._standing = self._standing, []
        for connection in standing:
            connection.socket.close()
        for listener in self.listeners:
            listener.close()

    def stop(self) -> None:
        """End all connections and listeners."""
        self.pause()
        self.retire()

    def _accept(self, listener: socket.socket) -> None:
        listener.settimeout(_LOOK_SECONDS)
        number = 0
        while not self._pause.is_asked:
            try:
                peer, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError as err:
                if err.errno in (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED, errno.ENOMEM):
                    log.warning("client not accepted", extra={"detail": str(err)})
                    time.sleep(_LOOK_SECONDS)
                    continue
                raise
            if self.count >= self._connection_count_max:
                self.refused_count += 1
                log.warning("client refused", extra={"count_max": self._connection_count_max})
                peer.close()
                continue
            number += 1
            name = f"NBD client {number}"
            self._begin(name, peer, ServerSession(name, self._tls_mode))

    def _begin(self, name: str, peer: socket.socket, session: ServerSession) -> None:
        peer.settimeout(None)
        if peer.family != socket.AF_UNIX:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_SIZE_BYTES)
        limit_receiving(peer, _LOOK_SECONDS)
        connection = Connection(
            name, peer, session, self._volume, self._export, self._pause, self._tls
        )
        with self._lock:
            self._start(connection)

    def _start(self, connection: Connection) -> None:
        """Serve it from a thread; the lock is held."""
        self._threads[connection] = start_thread(
            connection.name, self._serve, connection, daemon=True
        )

    def _serve(self, connection: Connection) -> None:
        stands = False
        try:
            connection.serve()
            stands = self._pause.is_asked and connection.session.standing() is not None
        except (OSError, DamagedDataError) as err:
            log.info("client gone", extra={"client": connection.name, "detail": str(err)})
        except Exception:  # the other clients shall not lose their disk because of this one
            log.critical("client cut", extra={"client": connection.name}, exc_info=True)
        finally:
            with self._lock:
                self._threads.pop(connection, None)
                if stands:
                    self._standing.append(connection)
                else:
                    self._past.add(connection.traffic)
            if not stands:
                connection.socket.close()


def listen(address: str, group: str | None) -> socket.socket:
    """A bound socket of NBD.

    Args:
        address: "unix:PATH" or HOST:PORT. A socket that nobody listens on any more is replaced.
        group: that may use a Unix socket, beside this process's own user; None: no other.

    Raises:
        ConfigurationError: it cannot be listened on.
    """
    try:
        if not address.startswith(_UNIX):
            return listen_on_network("BACKCAST_FILTER_NBD_LISTEN", address)
        path = Path(address.removeprefix(_UNIX))
        _remove_unused(path)
        listener = socket.socket(socket.AF_UNIX)
        old_mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(old_mask)
        if group is not None:
            shutil.chown(path, group=group)
            path.chmod(0o660)
        listener.listen(64)
    except (OSError, ValueError, LookupError) as err:
        raise ConfigurationError(
            f"BACKCAST_FILTER_NBD_LISTEN {address!r}: cannot be listened on: {err}"
        ) from err
    return listener


def listen_on_network(setting: str, address: str) -> socket.socket:
    """A bound socket at HOST:PORT.

    Raises:
        ConfigurationError: it cannot be listened on; names the setting.
    """
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), int(port)), family=family, backlog=64)
    except (OSError, ValueError) as err:
        raise ConfigurationError(f"{setting} {address!r}: cannot be listened on: {err}") from err


def _remove_unused(path: Path) -> None:
    """Remove a socket that a process before this one has left."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except FileNotFoundError:
            pass
        else:
            raise OSError(errno.EADDRINUSE, "another process listens there")
