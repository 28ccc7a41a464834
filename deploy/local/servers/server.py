"""What all local servers and services have in common."""

import signal
from abc import ABC, abstractmethod
from typing import ClassVar

from deploy.local.home import LOOPBACK, BackcastHome
from deploy.local.lock import Tell
from deploy.local.process import LocalProcess


class LocalServer(ABC):
    """One server of a home: `prepare`, `spawn`, `wait_ready`, `stop`, in this order."""

    #: Seconds until it must answer, with a wide margin for a busy machine.
    ready_seconds: ClassVar[float] = 90
    #: The signal that asks for a clean stop.
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, home: BackcastHome, name: str, port_names: tuple[str, ...]) -> None:
        self.home = home
        self.name = name
        self.port_names = port_names
        self.process = LocalProcess(home, name)

    @property
    def address(self) -> str:
        """Host and port where it answers."""
        return f"{LOOPBACK}:{self.home.port(self.port_names[0])}"

    def prepare(self, tell: Tell) -> None:  # noqa: B027 -- many servers need nothing
        """Get what is needed to start: may download and build, for minutes; starts no process."""

    @abstractmethod
    def spawn(self) -> None:
        """Start the process, which does not run. Its first start also makes its data folder."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it serves requests; never waits for long."""

    def wait_ready(self) -> None:
        """Return once it serves requests.

        Raises:
            UnavailableError: it ended, or needs longer than ``ready_seconds``.
        """
        self.process.wait_ready(self.is_ready, self.ready_seconds)

    def stop(self) -> None:
        """End the process cleanly, or by force if it does not listen."""
        self.process.stop(self.stop_signal)
