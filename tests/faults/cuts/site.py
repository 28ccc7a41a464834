"""Nodes with filters and two coordinators, each of which can be struck at a step of a barrier."""

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread
from uuid import UUID

from deploy.local.cluster import LocalCluster
from deploy.local.home import LOOPBACK, BackcastHome
from deploy.local.process import wait_until
from deploy.local.servers.server import LocalServer
from deploy.local.services import _SERVICES, ServiceProcess
from deploy.witness.written import agent_of
from libs.errors import BackcastError, NotFoundError, UnavailableError
from libs.rest.client import RestClient
from libs.rest.connections import Timeouts
from tests.faults.cuts.striking import STEPS, VARIABLE, Strike
from tests.support.running import TENANT, Answer, RunningSite
from tests.support.witnessed import WitnessedGroup

SECOND_COORDINATOR = "coordinator-2"
#: A node lets writes go on by itself after so long; longer than flushes take on a busy machine.
HOLD_SECONDS = 3.0
_COORDINATOR = {
    "HOLD_SECONDS_MAX": f"{HOLD_SECONDS:g}",
    "BARRIER_SECONDS_MAX": "6",
    "SESSION_DEADLINE_SECONDS": "15",
    "WATCH_INTERVAL_SECONDS": "0.5",
}
_SETTINGS: Mapping[str, Mapping[str, str]] = {
    "coordinator": _COORDINATOR,
    "chunker": {"SESSION_DEADLINE_SECONDS": "15"},
    "catalog": {"OVERDUE_INTERVAL_SECONDS": "1"},
    "agent": {
        "ANNOUNCE_INTERVAL_SECONDS": "1",
        "REPORT_INTERVAL_SECONDS": "0.5",
        "OUTCOME_TIMEOUT_SECONDS": "20",
    },
}
#: A coordinator that stands still is not waited for.
_TIMEOUTS = Timeouts(connect_seconds=1.0, read_seconds=2.0, total_seconds=3.0)
#: A session ends long before: by its deadline, which a cut begins anew.
_END_SECONDS_MAX = 90.0


class StruckCluster(LocalCluster):
    """A local cluster with two coordinators, whose barriers can be struck."""

    def __init__(self, home: BackcastHome) -> None:
        super().__init__(home)
        self._processes: list[ServiceProcess] = []

    def services(self) -> list[ServiceProcess]:
        if not self._processes:  # the same objects each time: they reap their own children
            for made in self.local_services().processes():
                kind = made.name.partition("-")[0]
                made.environ = _with(kind, made.environ, _SETTINGS.get(kind, {}))
                self._processes.append(made)
                if kind == "coordinator":
                    self._processes.append(self._second(made))
            for one in self._processes:
                kind = one.name.partition("-")[0]
                if kind in STEPS:
                    one.environ = make_strikable(one.argv, one.environ, self.strike_file(one.name))
        return self._processes

    def strike_file(self, name: str) -> Path:
        """Where a process looks whether it is to be struck."""
        folder = self.home.folder / "strikes"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def _second(self, first: ServiceProcess) -> ServiceProcess:
        service = next(one for one in _SERVICES if one.name == first.name)
        addresses = {
            "LISTEN": f"{LOOPBACK}:{self.home.port(SECOND_COORDINATOR)}",
            "NODES_LISTEN": f"{LOOPBACK}:{self.home.port(f'{SECOND_COORDINATOR}-nodes')}",
        }
        environ = _with("coordinator", first.environ, addresses)
        return ServiceProcess(self.home, replace(service, number=2), environ)


def make_strikable(argv: list[str], environ: Mapping[str, str], file: Path) -> Mapping[str, str]:
    """Let a command look for this file; returns its environment."""
    argv[:] = [sys.executable, "-m", "tests.faults.cuts.striking", argv[-1]]
    return {**environ, VARIABLE: str(file)}


class CutSite(RunningSite):
    """The cluster, a group that is written on all its nodes, and who starts again what ends."""

    def __init__(
        self, cluster: StruckCluster, folder: Path, name: str, nodes: int, *, is_shared: bool
    ) -> None:
        super().__init__(cluster, folder)
        self.struck = cluster
        home = cluster.home
        token = home.secret("token")
        self.coordinators = {
            name: RestClient(home.service_url(name), token, timeouts=_TIMEOUTS)
            for name in ("coordinator", SECOND_COORDINATOR)
        }
        self.group = WitnessedGroup(self, folder, name, nodes, is_shared=is_shared)
        for one in self.group.filters:
            one.environ = dict(make_strikable(one.argv, one.environ, cluster.strike_file(one.name)))
        self.agents = [agent_of(node) for node in range(nodes)]

    @property
    def strikable(self) -> dict[str, LocalServer]:
        """Every process that can be struck, by name."""
        services = {one.name: one for one in self.struck.services() if VARIABLE in one.environ}
        return {**services, **{one.name: one for one in self.group.filters}}

    def arm(self, name: str, strike: Strike) -> Path:
        """Let a process be struck; returns the file, which is gone once it was."""
        file = self.struck.strike_file(name)
        strike.write(file)
        return file

    def ask(self, coordinator: str, session: UUID) -> bool:
        """Ask a coordinator for a snapshot; whether it has answered."""
        body = {"session": str(session), "name": self.group.name}
        try:
            self.coordinators[coordinator].post(f"/v1/tenants/{TENANT}/snapshots", body)
        except BackcastError:
            return False
        return True

    def end_of(
        self, session: UUID, clients: Sequence[Thread], stop_seconds: float
    ) -> Answer | None:
        """How a session ended; None if none was opened. What is struck meanwhile is healed.

        Args:
            session: the session.
            clients: who ask for it; once they have their answers, it is opened or never will be.
            stop_seconds: a process that was stopped goes on after so long.
        """
        until = time.monotonic() + _END_SECONDS_MAX
        where = f"/v1/tenants/{TENANT}/sessions/{session}"
        stopped_since: dict[str, float] = {}
        while time.monotonic() < until:
            is_asked = not any(one.is_alive() for one in clients)
            self.revive(stopped_since, stop_seconds)
            unknown = 0
            for client in self.coordinators.values():
                try:
                    found: Answer = client.get(where, {"wait_seconds": 0.2})
                except NotFoundError:
                    unknown += 1
                except UnavailableError:
                    continue
                else:
                    if found["state"] != "open":
                        return found
            if is_asked and unknown == len(self.coordinators):
                return None
        raise AssertionError(f"session {session} has not ended within {_END_SECONDS_MAX:g} s")

    def revive(self, stopped_since: dict[str, float], stop_seconds: float) -> None:
        """Start again whoever has ended, and let those go on that stand still for too long."""
        for name, one in self.strikable.items():
            pid = one.process.pid
            if pid is None:
                one.spawn()
                one.wait_ready()
            elif _stands_still(pid):
                since = stopped_since.setdefault(name, time.monotonic())
                if time.monotonic() - since >= stop_seconds:
                    os.kill(pid, signal.SIGCONT)

    def wait_well(self) -> None:
        """Return when everybody runs and every writer has written."""
        stopped: dict[str, float] = {}
        self.revive(stopped, 0.0)
        ready = wait_until(lambda: all(one.is_ready() for one in self.strikable.values()), 60)
        assert ready, "some process does not become ready"
        try:
            self.group.wait_written(self.group.acknowledged(), 2)
        except UnavailableError:  # a filter was killed, and with it the connections of writers
            self.group.start_writers()


def _stands_still(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


def _with(service: str, environ: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    prefix = f"BACKCAST_{service.upper()}_"
    return dict(environ) | {prefix + name: value for name, value in more.items()}
