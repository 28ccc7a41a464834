"""A detached local process that a later command finds again, and never mistakes for another one.

A process is known by its id, its start time and the boot it belongs to, all in its run file; an id
that the kernel gave to somebody else is therefore never signalled. The process writes its run file
itself before it becomes the server, so that it never runs unregistered, whoever is killed.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from deploy.local.home import BackcastHome
from libs.errors import UnavailableError

_REGISTER_AND_BECOME = (
    'cat /proc/$$/stat /proc/sys/kernel/random/boot_id >"$0.unfinished" '
    '&& mv "$0.unfinished" "$0" && exec "$@"'
)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
#: Position of the start time in /proc/PID/stat, counted from the state that follows the name.
_START_TIME = 19
_POLL_INTERVAL_SECONDS = 0.02
_LOG_SIZE_BYTES_MAX = 16 << 20
_TAIL_LINES = 12


class LocalProcess:
    """The process called ``name`` of a home: running, or not."""

    def __init__(self, home: BackcastHome, name: str) -> None:
        self.name = name
        self._home = home
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def log_file(self) -> Path:
        """What the process printed; once it is large, it is kept beside a new one."""
        return self._home.log_file(self.name)

    @property
    def pid(self) -> int | None:
        """Its process id, or None when it does not run."""
        if self._child is not None:
            self._child.poll()  # a child that ended stays a zombie until it is asked for
        try:
            stat, boot_id = self._home.run_file(self.name).read_text().splitlines()
        except FileNotFoundError:
            return None
        pid = int(stat.split()[0])
        same_boot = boot_id == _BOOT_ID.read_text().strip()
        return pid if same_boot and _start_time(pid) == _fields(stat)[_START_TIME] else None

    def start(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str] | None = None,
        *,
        folder: Path = Path("/"),
        as_user: Sequence[str] = (),
    ) -> None:
        """Start ``argv`` in its own session; return once it is registered, before it answers.

        Args:
            argv: program and arguments.
            environ: added to this process's environment without its BACKCAST_ variables.
            folder: its working directory.
            as_user: command in front that changes the user.
        """
        # Tied last: the kernel forgets the signal of a dying parent when the user changes.
        tie = ("setpriv", "--pdeathsig", "KILL") if self._home.tied else ()
        run_file = self._home.run_file(self.name)
        run_file.unlink(missing_ok=True)
        if self.log_file.exists() and self.log_file.stat().st_size > _LOG_SIZE_BYTES_MAX:
            self.log_file.rename(self.log_file.with_suffix(".log.1"))
        with self.log_file.open("ab") as log:
            self._child = subprocess.Popen(
                ["/bin/sh", "-c", _REGISTER_AND_BECOME, str(run_file), *as_user, *tie, *argv],
                env={**outer_environ(), **(environ or {})},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        child = self._child
        wait_until(lambda: run_file.exists() or child.poll() is not None, seconds=10)

    def wait_ready(self, is_ready: Callable[[], bool], seconds: float) -> None:
        """Return once ``is_ready`` says so.

        Raises:
            UnavailableError: the process ended, or was not ready in time; with the end of its log.
        """
        ready = False

        def settled() -> bool:
            nonlocal ready
            ready = self.pid is not None and is_ready()
            return ready or self.pid is None

        settled_in_time = wait_until(settled, seconds)
        if not ready:
            what = "ended while starting" if settled_in_time else f"not ready after {seconds:g} s"
            raise UnavailableError(
                f"{self.name} {what}; the end of {self.log_file}:\n{self._tail()}"
            )

    def stop(
        self, first_signal: signal.Signals = signal.SIGTERM, grace_seconds: float = 30
    ) -> None:
        """End the process and what it started: politely, then by force."""
        pid = self.pid
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, first_signal)
            wait_until(lambda: self.pid is None, grace_seconds)
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            wait_until(lambda: self.pid is None, grace_seconds)
        self._home.run_file(self.name).unlink(missing_ok=True)

    def _tail(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-_TAIL_LINES:])


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll until ``condition`` holds or the deadline has passed; return its last answer."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_INTERVAL_SECONDS)
    return True


def kill_all_inside(folder: Path, seconds: float = 10) -> None:
    """End every process whose working directory is ``folder``: what a killed server left behind."""

    def living() -> list[int]:
        found = []
        for link in Path("/proc").glob("[0-9]*/cwd"):
            pid = int(link.parent.name)
            with suppress(OSError):  # ended meanwhile, or another user's
                if link.readlink() == folder and _start_time(pid) is not None:
                    found.append(pid)
        return found

    for pid in living():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not living(), seconds)


def outer_environ() -> dict[str, str]:
    """The environment without settings: those of the caller's shell are not the servers'."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BACKCAST_")}


def _fields(stat: str) -> list[str]:
    # The second field is the program's name in parentheses and may itself contain spaces.
    return stat.rpartition(")")[2].split()


def _start_time(pid: int) -> str | None:
    """When ``pid`` started, in clock ticks since boot; None if it ended, reaped or not."""
    try:
        fields = _fields(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[_START_TIME]
