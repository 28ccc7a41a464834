"""A link to Postgres that loses answers."""

import select
import socket
import threading
from types import TracebackType
from typing import Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo

_COMMIT = b"COMMIT\0"


class LossyLink:
    """Passes bytes on between clients and Postgres; on request it loses the answer to a COMMIT.

    Fault model: the network or the client's host fails after the server has committed and before
    the client knows. An error then does not mean that nothing happened, so whoever gets it must be
    able to call again.

    Args:
        dsn: connection string of the server, without TLS.
    """

    def __init__(self, dsn: str) -> None:
        server = conninfo_to_dict(dsn)
        self._server = (str(server["host"]), int(str(server["port"])))
        self._listener = socket.create_server(("127.0.0.1", 0))
        #: How clients reach the server through this link.
        self.dsn = make_conninfo(dsn, port=self._listener.getsockname()[1], sslmode="disable")
        self._losing = threading.Event()
        self._closing = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._listener.close()

    def lose_next_answer(self) -> None:
        """The next COMMIT is done, and its connection ends before the client hears of it."""
        self._losing.set()

    @property
    def lost(self) -> bool:
        """Whether the answer is lost by now."""
        return not self._losing.is_set()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._connect, args=[client], daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server:
            peers = {client: server, server: client}
            while True:
                for source in select.select(list(peers), [], [])[0]:
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    peers[source].sendall(data)
                    if source is client and _COMMIT in data and self._losing.is_set():
                        server.recv(1 << 16)
                        self._losing.clear()
                        return
