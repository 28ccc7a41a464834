"""BACKCAST_HOME: the one folder where local servers and services keep their data.

    lock              held by whoever starts or stops processes
    state.json        the S3 server of this home and the ports of its processes
    secrets/          credentials, one file each, mode 0600
    data/NAME/        what the process NAME stores
    run/NAME          which process NAME is (see process.py)
    log/NAME.log      what it printed

Ports are remembered, so addresses survive a restart. They come from below the kernel's range for
outgoing connections (32768 and up), so that none takes a port between choosing and listening.
"""

import json
import os
import random
import shutil
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from deploy.local.lock import Tell, exclusive
from libs.errors import ConflictError, UnavailableError

LOOPBACK = "127.0.0.1"
_PORTS = range(20_000, 32_768)
_PORT_TRIES_MAX = 200


class BackcastHome:
    """The folder, and what it remembers. Methods that write expect the caller to hold `lock`.

    Args:
        folder: made when it is first written to; its owner alone may enter it.
        tied: its processes die with the thread that started them; for tests, which may be killed.
    """

    def __init__(self, folder: Path, *, tied: bool = False) -> None:
        self.folder = folder.expanduser().absolute()
        self.tied = tied

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "BackcastHome":
        """The home that ``BACKCAST_HOME`` names, else ``backcast`` in the user's data folder."""
        named = environ.get("BACKCAST_HOME")
        if named:
            return cls(Path(named))
        data = environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
        return cls(Path(data) / "backcast")

    @property
    def exists(self) -> bool:
        """Whether anything was ever started here."""
        return self._state_file.exists()

    def lock(self, tell: Tell) -> AbstractContextManager[None]:
        """Hold this home alone, so that two commands never start or stop the same processes."""
        self._private(self.folder)
        return exclusive(self.folder / "lock", tell)

    # Folders and files

    def data(self, name: str) -> Path:
        """The folder where ``name`` keeps its data; made if missing."""
        return self._private(self.folder / "data" / name)

    def run_file(self, name: str) -> Path:
        """The file that says which process ``name`` is."""
        return self._private(self.folder / "run") / name

    def log_file(self, name: str) -> Path:
        """The file that receives what ``name`` prints."""
        return self._private(self.folder / "log") / f"{name}.log"

    # Credentials

    def secret_file(self, name: str) -> Path:
        """The file of the secret ``name``: 32 random bytes in hexadecimal, made if missing."""
        path = self._private(self.folder / "secrets") / name
        if not path.exists():
            _write_private(path, os.urandom(32).hex())
        return path

    def secret(self, name: str) -> str:
        """The random secret ``name``; made if missing."""
        return self.secret_file(name).read_text()

    def write_secret(self, name: str, text: str) -> Path:
        """Keep ``text``, which contains a secret, in the file ``name`` that is returned."""
        path = self._private(self.folder / "secrets") / name
        if not path.exists() or path.read_text() != text:
            _write_private(path, text)
        return path

    # What is remembered

    @property
    def s3_server(self) -> str | None:
        """The S3 server whose data this home holds, if one was ever chosen."""
        chosen: str | None = self._state()["s3_server"]
        return chosen

    def remember_s3_server(self, name: str) -> None:
        """Make ``name`` the S3 server of this home, for good.

        Raises:
            ConflictError: the home holds the data of another one.
        """
        before = self.s3_server
        if before not in (None, name):
            raise ConflictError(
                f"{self.folder} holds the data of the S3 server {before}, expected {name}; "
                f"use --s3 {before}, or another BACKCAST_HOME"
            )
        self._save(self._state() | {"s3_server": name})

    @property
    def has_second_store(self) -> bool:
        """Whether this home has a second bucket, which gets a copy of everything."""
        return bool(self._state().get("second_store"))

    def remember_second_store(self) -> None:
        """Give this home a second bucket, for good."""
        self._save(self._state() | {"second_store": True})

    @property
    def agent_count(self) -> int:
        """How many agents run in this home, each as another node."""
        return int(self._state().get("agent_count", 1))

    def remember_agents(self, count: int) -> None:
        """Give this home so many agents, for good; it never has fewer than before."""
        self._save(self._state() | {"agent_count": max(count, self.agent_count)})

    def filters_folder(self, agent: str) -> Path:
        """Where an agent, named as its process, finds the control sockets of its node's filters."""
        return self._private(self.folder / "filters" / agent)

    @property
    def has_tls(self) -> bool:
        """Whether the services of this home speak TLS."""
        return bool(self._state().get("tls"))

    def remember_tls(self) -> None:
        """Let the services of this home speak TLS, for good."""
        self._save(self._state() | {"tls": True})

    @property
    def ca_file(self) -> Path | None:
        """The authority that signs the services of this home; None: they speak without TLS."""
        return self.folder / "secrets" / "tls-ca.pem" if self.has_tls else None

    def service_url(self, name: str) -> str:
        """Where the service whose port has this name answers."""
        scheme = "https" if self.has_tls else "http"
        return f"{scheme}://{LOOPBACK}:{self.port(name)}"

    def port(self, name: str) -> int:
        """The remembered port ``name`` on the loopback address; chosen the first time."""
        state = self._state()
        if name not in state["ports"]:
            state["ports"][name] = _free_port(state["ports"].values())
            self._save(state)
        port: int = state["ports"][name]
        return port

    def replace_taken_ports(self, names: Iterable[str]) -> bool:
        """Choose anew those ports of ``names``, whose processes do not run, that a stranger took.

        Returns:
            Whether any address changed.
        """
        state = self._state()
        taken = [name for name in names if name in state["ports"] and not _is_free(self.port(name))]
        for name in taken:
            state["ports"][name] = _free_port(state["ports"].values())
        if taken:
            self._save(state)
        return bool(taken)

    @property
    def url(self) -> str:
        """Where the REST service of this home answers."""
        return self.service_url("restore")

    @property
    def _state_file(self) -> Path:
        return self.folder / "state.json"

    def _state(self) -> dict[str, Any]:
        if not self.exists:
            return {"s3_server": None, "ports": {}}
        state: dict[str, Any] = json.loads(self._state_file.read_text())
        return state

    def _save(self, state: dict[str, Any]) -> None:
        self._private(self.folder)
        _write_private(self._state_file, json.dumps(state, indent=2))

    @staticmethod
    def _private(folder: Path) -> Path:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder


def make_folder_once(target: Path, make: Callable[[Path], None]) -> None:
    """Fill the new folder ``target`` by ``make``: complete or not there, whatever is killed."""
    if target.exists():
        return
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    make(unfinished)
    unfinished.rename(target)


def _write_private(path: Path, text: str) -> None:
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(text)
    unfinished.rename(path)


def _free_port(taken: Iterable[int]) -> int:
    candidates = random.sample(sorted(set(_PORTS) - set(taken)), _PORT_TRIES_MAX)
    for port in candidates:
        if _is_free(port):
            return port
    raise UnavailableError(
        f"{LOOPBACK}: {_PORT_TRIES_MAX} ports above {_PORTS.start - 1} tried, none is free"
    )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True
