"""A cluster whose services reach the servers, and chunkers the agent, only through proxies."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from deploy.local.cluster import LocalCluster
from deploy.local.home import LOOPBACK, BackcastHome
from deploy.local.process import wait_until
from deploy.local.servers.kafka import KafkaServer
from deploy.local.servers.minio import MinioServer
from deploy.local.servers.postgres import PostgresServer
from deploy.local.servers.server import LocalServer
from deploy.local.services import _SERVICES, LocalServices, ServiceProcess, _Service
from libs.errors import BackcastError
from services.cli.connection import Services
from tests.faults.proxies.kafka import KafkaProxy
from tests.faults.proxies.link import Address, Proxy, pid_of_connection
from tests.faults.proxies.postgres import PostgresProxy
from tests.faults.proxies.s3 import S3Proxy
from tests.faults.proxies.spans import SpanProxy
from tests.support.running import TENANT, RunningSite

SECOND_CHUNKER = "chunker-2"
SERVERS = ("kafka", "minio", "postgres")
SERVICES = ("catalog", "coordinator", "agent", "chunker", SECOND_CHUNKER, "restore")
#: A session without progress for so long is rejected: longer than any one recovery takes.
DEADLINE_SECONDS = 30
_SETTINGS = {
    "coordinator": {
        "SESSION_DEADLINE_SECONDS": str(DEADLINE_SECONDS),
        "WATCH_INTERVAL_SECONDS": "0.5",
    },
    "chunker": {"SESSION_DEADLINE_SECONDS": str(DEADLINE_SECONDS)},
    "catalog": {
        "OVERDUE_INTERVAL_SECONDS": "1",
        "COLLECTION_INTERVAL_SECONDS": "2",
        "TOMBSTONE_DEADLINE_SECONDS": "5",
    },
    "agent": {"ANNOUNCE_INTERVAL_SECONDS": "1"},
}
#: How often the supervisor looks; Kubernetes restarts a container that ended at once, too.
_LOOK_SECONDS = 0.1


class ProxiedCluster(LocalCluster):
    """A local cluster with proxies in front of its servers and two chunkers."""

    def __init__(self, home: BackcastHome) -> None:
        super().__init__(home)
        self.s3_proxy = S3Proxy(lambda: self._at("s3"), lambda p: self._name_of(p, self.s3_proxy))
        self.kafka_proxy = KafkaProxy(
            lambda: self._at("kafka"), lambda p: self._name_of(p, self.kafka_proxy)
        )
        self.postgres_proxy = PostgresProxy(
            lambda: self._at("postgres"), lambda p: self._name_of(p, self.postgres_proxy)
        )
        self.span_proxy = SpanProxy(
            lambda: self._at("agent-spans"), lambda p: self._name_of(p, self.span_proxy)
        )
        self._processes: dict[str, ServiceProcess] = {}

    @property
    def proxies(self) -> list[Proxy]:
        """All of them."""
        return [self.s3_proxy, self.kafka_proxy, self.postgres_proxy, self.span_proxy]

    def close_proxies(self) -> None:
        """End every connection through them."""
        for proxy in self.proxies:
            proxy.close()

    def services(self) -> list[ServiceProcess]:
        if not self._processes:  # the same objects each time: they reap their own children
            made = self.local_services().processes()
            for process, service in zip(made, _SERVICES, strict=True):
                self._add(service, self._settings(service.name, process.environ))
                if service.name == "chunker":
                    second = {
                        "BACKCAST_CHUNKER_NAME": SECOND_CHUNKER,
                        "BACKCAST_CHUNKER_LISTEN": "{}:{}".format(*self._at(SECOND_CHUNKER)),
                    }
                    environ = self._settings(service.name, process.environ) | second
                    self._add(replace(service, name=SECOND_CHUNKER), environ)
        return list(self._processes.values())

    def _add(self, service: _Service, environ: Mapping[str, str]) -> None:
        self._processes[service.name] = ServiceProcess(self.home, service, environ)

    def local_services(self) -> LocalServices:
        return LocalServices(
            self.home,
            _ProxiedPostgres(self.home, self.postgres_proxy.port),
            _ProxiedKafka(self.home, self.kafka_proxy.port),
            _ProxiedMinio(self.home, self.s3_proxy.port),
        )

    def _settings(self, service: str, environ: Mapping[str, str]) -> dict[str, str]:
        own = dict(_SETTINGS.get(service, {}))
        if service == "agent":
            own["SPAN_ADVERTISED"] = f"{LOOPBACK}:{self.span_proxy.port}"
        prefix = f"BACKCAST_{service.upper()}_"
        return dict(environ) | {prefix + name: value for name, value in own.items()}

    def _at(self, port_name: str) -> Address:
        return LOOPBACK, self.home.port(port_name)

    def _name_of(
        self, client_port: int, proxy: "S3Proxy | KafkaProxy | PostgresProxy | SpanProxy"
    ) -> str:
        """The service that has this connection; the tests themselves are ``client``."""
        pids = {p: name for name, one in self._processes.items() if (p := one.process.pid)}
        pid = pid_of_connection(client_port, proxy.port, list(pids))
        return pids[pid] if pid else "client"


class FaultSite(RunningSite):
    """A proxied cluster, its clients, and those who kill and restart its processes."""

    def __init__(self, cluster: ProxiedCluster, folder: Path) -> None:
        super().__init__(cluster, folder)
        self.proxied = cluster
        self._starting = threading.Lock()
        self._servers = {server.name: server for server in cluster.servers()}

    def server(self, name: str) -> LocalServer:
        found = self._servers.get(name)
        return found or next(one for one in self.cluster.services() if one.name == name)

    def commands(self) -> Services:
        """What a command knows of the site: nothing but an address and a token."""
        return Services(self.cluster.home.url, self.cluster.home.secret("token"), TENANT)

    def pid_of(self, name: str) -> int | None:
        """Its process id, or None when it does not run."""
        return self.server(name).process.pid

    def up(self, name: str) -> bool:
        """Whether a process runs and answers."""
        server = self.server(name)
        return server.process.pid is not None and server.is_ready()

    def down_count(self) -> int:
        """How many processes do not answer."""
        return sum(not self.up(name) for name in (*SERVERS, *SERVICES))

    def wait_all_up(self, seconds: float = 90) -> None:
        """Return when every process answers."""
        names = [*SERVERS, *SERVICES]
        down = names

        def none_is_down() -> bool:
            nonlocal down
            down = [name for name in down if not self.up(name)]
            return not down

        assert wait_until(none_is_down, seconds), f"still down after {seconds:g} s: {down}"

    def kill_now(self, name: str, how: signal.Signals = signal.SIGKILL) -> bool:
        """Signal it, and wait until it has ended; False if it does not run just now.

        Never by `LocalProcess.stop`, which tidies up behind a process: the supervisor has started
        the next one meanwhile.
        """
        process = self.server(name).process
        pid = process.pid
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, how)
        return wait_until(lambda: process.pid != pid, 30)

    @contextmanager
    def supervised(self) -> Iterator[None]:
        """Start again whatever ends, while the block runs, as Kubernetes and systemd would.

        What it started ends with it: such processes are tied to the thread that started them.
        """
        stop = threading.Event()

        def supervise() -> None:
            while not stop.wait(_LOOK_SECONDS):
                for name in (*SERVERS, *SERVICES):
                    if self.server(name).process.pid is None and not stop.is_set():
                        self._spawn(name)

        thread = threading.Thread(target=supervise, name="supervisor")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _spawn(self, name: str) -> None:
        server = self.server(name)
        try:
            server.prepare(lambda _: None)
            server.spawn()
        except BackcastError:
            return  # the next look tries again


class _ProxiedPostgres(PostgresServer):
    def __init__(self, home: BackcastHome, port: int) -> None:
        super().__init__(home)
        self._port = port

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self._port}"

    def dsn_of(self, role: str, password: str, database: str = "backcast") -> str:
        return super().dsn_of(role, password, database) + "?sslmode=disable"


class _ProxiedKafka(KafkaServer):
    def __init__(self, home: BackcastHome, port: int) -> None:
        super().__init__(home)
        self._port = port

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self._port}"


class _ProxiedMinio(MinioServer):
    def __init__(self, home: BackcastHome, port: int) -> None:
        super().__init__(home)
        self._port = port

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self._port}"
