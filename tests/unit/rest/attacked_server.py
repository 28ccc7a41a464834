"""A process with a server of ours in it, so that its memory and its files can be counted.

Run as a program with its limits as JSON, it prints its URL and serves until its input ends.
"""

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from fastapi import Depends
from fastapi.responses import StreamingResponse

from libs.rest.auth import Caller, Role, Tokens, digest_of, require
from libs.rest.limits import ServerLimits
from libs.rest.server import create_app, serving
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry

ROOT = Path(__file__).parents[3]
TOKEN = "known"
#: More than the kernel's buffers on both sides take.
ANSWER_SIZE_BYTES = 24 << 20


class AttackedServer:
    """The process, seen from outside."""

    def __init__(self, process: "subprocess.Popen[str]", url: str) -> None:
        self.url = url
        self.log = ""
        self._process = process
        host, port = url.split("//")[1].split(":")
        self.address = host, int(port)

    @property
    def memory_mib(self) -> float:
        """Resident memory."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024

    @property
    def open_file_count(self) -> int:
        """Open files, sockets among them."""
        return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))

    def connect(self) -> socket.socket:
        """A new connection that waits at most 30 s for anything."""
        return socket.create_connection(self.address, timeout=30)

    def ask(self, request: bytes) -> bytes:
        """All that a connection gives for some bytes, until the server closes it."""
        with self.connect() as connection:
            with contextlib.suppress(OSError):
                connection.sendall(request)
            return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    """What comes until the end of a connection, however it ends."""
    received = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(1 << 20):
            received += piece
    return bytes(received)


@contextlib.contextmanager
def attacked(**limits: float) -> Iterator[AttackedServer]:
    """A server process with these `ServerLimits`; its log is in ``log`` afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.rest.attacked_server", json.dumps(limits)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        server = AttackedServer(process, process.stdout.readline().strip())
        yield server
        _, server.log = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Serve until the input ends."""
    settings = ServiceSettings(listen="127.0.0.1:0", stop_timeout_seconds=1)
    entry = {"sha256": digest_of(TOKEN), "tenant": "*", "role": "admin"}
    app = create_app("t", settings, Health(), new_registry(), Tokens(json.dumps([entry])))

    @app.post("/v1/orders")
    def order(
        body: dict[str, str], caller: Annotated[Caller, Depends(require(Role.ADMIN))]
    ) -> list[str]:
        return list(body)

    @app.get("/long")
    def long() -> StreamingResponse:
        return StreamingResponse(bytes(1 << 20) for _ in range(ANSWER_SIZE_BYTES >> 20))

    with serving(app, settings, ServerLimits(**json.loads(sys.argv[1]))) as url:
        print(url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
