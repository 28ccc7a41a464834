"""Volume filters as local processes: each in front of one volume of one of the home's nodes."""

import sys
from pathlib import Path

from deploy.local.home import LOOPBACK, BackcastHome
from deploy.local.servers.http_probe import answers
from deploy.local.servers.server import LocalServer
from deploy.local.services import SOURCE


class FilterProcess(LocalServer):
    """A volume filter, which answers ``/readyz`` once it serves.

    Args:
        home: where its state and its sockets lie.
        name: of the process.
        agent: name of the process of its node's agent, which finds the filter.
        volume: file or block device that it serves.
        is_direct: past this machine's page cache, as a disk that several nodes write needs it.
    """

    def __init__(
        self, home: BackcastHome, name: str, agent: str, volume: Path, *, is_direct: bool = False
    ) -> None:
        super().__init__(home, name, (name,))
        self.argv = [sys.executable, "-m", "services.change_capture.filter"]
        #: Where its clients find it, as `libs.nbd` reads it.
        self.nbd_address = f"unix:{home.folder / 'filters' / name}.nbd"
        settings = {
            "VOLUME": volume,
            "LISTEN": f"{LOOPBACK}:{home.port(name)}",
            "NBD_LISTEN": self.nbd_address,
            "DIRECT": "true" if is_direct else "false",
            "STATE_FOLDER": home.data(name),
            "CONTROL_FOLDER": home.filters_folder(agent),
        }
        if is_direct:
            settings["PEER_LISTEN"] = f"{LOOPBACK}:0"
        self.environ = {f"BACKCAST_FILTER_{key}": str(value) for key, value in settings.items()}

    def spawn(self) -> None:
        """Start the filter."""
        self.process.start(self.argv, self.environ, folder=SOURCE)

    def is_ready(self) -> bool:
        """Whether it serves its clients, as it says itself."""
        return answers(f"http://{self.address}/readyz", None)
