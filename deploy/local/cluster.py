"""Everything of one home together: PostgreSQL, Kafka, the S3 server, then our services."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from deploy.local.home import BackcastHome
from deploy.local.lock import Tell
from deploy.local.servers.kafka import USER as KAFKA_USER
from deploy.local.servers.kafka import KafkaServer
from deploy.local.servers.minio import MinioServer
from deploy.local.servers.postgres import PostgresServer
from deploy.local.servers.s3 import S3Choice, choose_s3, s3_server
from deploy.local.servers.server import LocalServer
from deploy.local.services import BUCKET, SECOND_BUCKET, LocalServices


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """What `LocalCluster.status` says of one process."""

    name: str
    #: None when it does not run.
    pid: int | None
    #: Whether it serves requests.
    ready: bool
    address: str
    log: str


class LocalCluster:
    """The servers and services of ``home``.

    Every method but `up` and `down` only looks. After `up` the servers can be asked for their
    addresses and credentials: ``postgres.dsn``, ``kafka.bootstrap``, ``s3.endpoint``,
    ``s3.access_key``, ``s3.secret_key``.
    """

    def __init__(self, home: BackcastHome) -> None:
        self.home = home
        self.postgres = PostgresServer(home)
        self.kafka = KafkaServer(home)
        self.s3 = s3_server(home)

    def up(  # noqa: PLR0913 -- what a home may have
        self,
        tell: Tell,
        *,
        s3: S3Choice = S3Choice.AUTO,
        servers_only: bool = False,
        second_store: bool = False,
        agent_count: int = 1,
        tls: bool = False,
    ) -> None:
        """Start what does not run, and return when everything answers.

        Either all of it runs afterwards, or what this call started is stopped again. Running
        processes are left alone, except services when a server had to move to another port.

        Raises:
            BackcastError: something cannot be got or started, or the home has another S3 server.
        """
        with self.home.lock(tell), ExitStack() as undo:
            self.s3 = choose_s3(self.home, s3, tell)
            if second_store and not self.home.has_second_store:
                self.home.remember_second_store()
                _stop(self.services(), tell)  # they learn of it when they start
            if agent_count > self.home.agent_count:
                self.home.remember_agents(agent_count)
                if self.home.has_tls:
                    _stop(self.services(), tell)  # their certificate names every node
            if tls and not self.home.has_tls:
                self.home.remember_tls()
                _stop(self.services(), tell)  # the same
            if self.home.has_tls:
                self.local_services().make_certificates()
            self.postgres.prepare(tell)
            self.kafka.prepare(tell)
            if _replace_taken_ports(self.home, self.servers()):
                _stop(self.services(), tell)
            _start(self.servers(), undo, tell)
            if not servers_only:
                _replace_taken_ports(self.home, self.services())
                self.local_services().initialize(tell)
                _start(self.services(), undo, tell)
            undo.pop_all()

    def down(self, tell: Tell) -> None:
        """Stop everything, services first. Data stay; nothing to do if nothing runs."""
        if not self.home.exists:
            return
        with self.home.lock(tell):
            _stop([*self.services()[::-1], *self.servers()], tell)

    def status(self) -> list[ProcessStatus]:
        """Every process, in the order in which they are started."""
        return [
            ProcessStatus(
                name=server.name,
                pid=(pid := server.process.pid),
                ready=pid is not None and server.is_ready(),
                address=server.address,
                log=str(server.process.log_file),
            )
            for server in [*self.servers(), *self.services()]
        ]

    def environment(self) -> dict[str, str]:
        """Addresses and credentials for the command and for other programs, as variables."""
        console = {}
        if isinstance(self.s3, MinioServer):
            console = {"BACKCAST_S3_CONSOLE_URL": self.s3.console_url}
        return {
            "BACKCAST_HOME": str(self.home.folder),
            "BACKCAST_URL": self.home.url,
            "BACKCAST_TOKEN": self.home.secret("token"),
            **({"BACKCAST_CA_FILE": str(self.home.ca_file)} if self.home.has_tls else {}),
            "BACKCAST_S3_ENDPOINT": self.s3.endpoint,
            "BACKCAST_S3_BUCKET": BUCKET,
            "BACKCAST_S3_ACCESS_KEY": self.s3.access_key,
            "BACKCAST_S3_SECRET_KEY": self.s3.secret_key,
            **({"BACKCAST_SECOND_S3_BUCKET": SECOND_BUCKET} if self.home.has_second_store else {}),
            **console,
            "BACKCAST_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
            "BACKCAST_KAFKA_USERNAME": KAFKA_USER,
            "BACKCAST_KAFKA_PASSWORD": self.kafka.password_file.read_text(),
            "BACKCAST_POSTGRES_URL": self.postgres.dsn,
        }

    def servers(self) -> list[LocalServer]:
        """The servers. Kafka first: it takes longest, and the others start meanwhile."""
        return [self.kafka, self.s3, self.postgres]

    def services(self) -> Sequence[LocalServer]:
        """Our services, in the order in which they are started."""
        return self.local_services().processes()

    def local_services(self) -> LocalServices:
        """Made anew each time: settings are made of addresses, which may have moved."""
        return LocalServices(self.home, self.postgres, self.kafka, self.s3)


def _replace_taken_ports(home: BackcastHome, servers: Sequence[LocalServer]) -> bool:
    stopped = [server for server in servers if server.process.pid is None]
    return home.replace_taken_ports(name for server in stopped for name in server.port_names)


def _start(servers: Sequence[LocalServer], undo: ExitStack, tell: Tell) -> None:
    for server in servers:
        if server.process.pid is None:
            undo.callback(server.stop)
            tell(f"starting {server.name}")
            server.spawn()
    for server in servers:
        server.wait_ready()


def _stop(servers: Sequence[LocalServer], tell: Tell) -> None:
    for server in servers:
        if server.process.pid is not None:
            tell(f"stopping {server.name}")
        server.stop()  # also when it was killed: it may have left something behind
