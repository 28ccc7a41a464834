"""Our own services as local processes: what runs, with which settings, in which order.

The two tables are the whole wiring of a workstation; ports, credentials and folders are the home's.
"""

import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

from deploy.local.certificates import Authority
from deploy.local.home import LOOPBACK, BackcastHome
from deploy.local.lock import Tell
from deploy.local.process import outer_environ
from deploy.local.servers.http_probe import answers
from deploy.local.servers.kafka import USER as KAFKA_USER
from deploy.local.servers.kafka import KafkaServer
from deploy.local.servers.postgres import PostgresServer
from deploy.local.servers.s3 import S3Server
from deploy.local.servers.server import LocalServer
from libs.errors import UnavailableError
from libs.keys.nodes import NodeKey

BUCKET = "backcast"
#: Of homes that have a second store: another bucket of the same server.
SECOND_BUCKET = "backcast-second"
#: Folder of the source, from which every process is started.
SOURCE = Path(__file__).parents[2]
_INIT_SECONDS_MAX = 120
#: Byte buffers of megabytes come and go all the time. By default each is mapped and unmapped, which
#: cost 541,000 page faults per GiB; kept in the heap it is 28,000 at the same memory use. An arena
#: keeps what it once needed, so there are few of them.
_LARGE_BUFFERS = {
    "MALLOC_ARENA_MAX": "4",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
}


@dataclass(frozen=True, slots=True)
class _Service:
    #: Also the name of its settings, port, log and catalog login.
    name: str
    #: What comes after ``python -m``.
    module: str
    #: Groups of settings, see `LocalServices._groups`.
    uses: tuple[str, ...]
    #: Environment that is not a setting.
    environ: Mapping[str, str] = field(default_factory=dict)
    #: Endings of the names of its ports besides the first.
    more_ports: tuple[str, ...] = ()
    #: There may be several of a name; from the second one on, port and log have the number too.
    number: int = 1

    @property
    def process_name(self) -> str:
        return self.name if self.number == 1 else f"{self.name}-{self.number}"


_SERVICES = (
    _Service(
        "catalog",
        "services.catalog",
        ("postgres", "kafka", "s3", "second_s3", "kek", "previous_kek", "tokens"),
    ),
    _Service(
        "coordinator",
        "services.change_capture.coordinator",
        ("postgres", "s3", "kek", "previous_kek", "tokens", "nodes"),
        more_ports=("-nodes",),
    ),
    _Service(
        "agent",
        "services.change_capture.agent",
        ("kafka", "node"),
        _LARGE_BUFFERS,
        more_ports=("-spans",),
    ),
    _Service(
        "chunker",
        "services.chunker",
        ("postgres", "kafka", "s3", "second_s3", "kek", "previous_kek"),
        _LARGE_BUFFERS,
    ),
    _Service(
        "restore",
        "services.restore",
        ("postgres", "s3", "second_s3", "kek", "previous_kek", "tokens", "coordinator", "links"),
        _LARGE_BUFFERS,
    ),
)
#: Homes may have several, each of another node: volumes of a group may then be on any of them.
_AGENT = next(one for one in _SERVICES if one.name == "agent")
#: Services that call others, or agents.
_CALLING = ("coordinator", "agent", "chunker")
#: Services that log in to the catalog; `init` makes a login for each.
_LOGINS = tuple(service.name for service in _SERVICES if "postgres" in service.uses)


class ServiceProcess(LocalServer):
    """One of our services, which answers ``/readyz`` once it works."""

    def __init__(self, home: BackcastHome, service: _Service, environ: Mapping[str, str]) -> None:
        ports = tuple(f"{service.process_name}{port}" for port in ("", *service.more_ports))
        super().__init__(home, service.process_name, ports)
        #: How it is started: the command, and the variables that it gets besides ours.
        self.argv = [sys.executable, "-m", *service.module.split()]
        self.environ = environ
        self._url, self._ca_file = home.service_url(service.process_name), home.ca_file

    def spawn(self) -> None:
        """Start the service."""
        self.process.start(self.argv, self.environ, folder=SOURCE)

    def is_ready(self) -> bool:
        """Whether it says so itself."""
        return answers(f"{self._url}/readyz", self._ca_file)


class LocalServices:
    """The services of one home, and the set-up that runs before them."""

    def __init__(
        self, home: BackcastHome, postgres: PostgresServer, kafka: KafkaServer, s3: S3Server
    ) -> None:
        self._home = home
        self._postgres = postgres
        self._kafka = kafka
        self._s3 = s3

    def processes(self) -> list[ServiceProcess]:
        """Every service, in the order in which they are started."""
        more = [replace(_AGENT, number=number + 1) for number in range(1, self._home.agent_count)]
        services = [*_SERVICES, *more]
        return [ServiceProcess(self._home, service, self._environ(service)) for service in services]

    def initialize(self, tell: Tell) -> None:
        """Create or upgrade schema, logins, topics, bucket and keys. Harmless when repeated.

        Raises:
            UnavailableError: it failed; with the end of what it said.
        """
        tell("setting up the catalog, topics, bucket and keys")
        owner = self._home.write_secret("postgres.dsn", self._postgres.dsn)
        settings = {"POSTGRES_DSN_FILE": str(owner)}
        settings |= {f"{login.upper()}_DSN_FILE": str(self._dsn_file(login)) for login in _LOGINS}
        for group in ("kafka", "s3", "second_s3", "kek"):
            settings |= self._groups("init")[group]
        log_file = self._home.log_file("init")
        with log_file.open("wb") as log:
            finished = subprocess.run(
                [sys.executable, "-m", "services.catalog.init"],
                env=outer_environ() | _prefixed("init", settings),
                cwd=SOURCE,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=_INIT_SECONDS_MAX,
                check=False,
            )
        if finished.returncode:
            said = log_file.read_text(errors="replace").strip()
            raise UnavailableError(f"services.catalog init failed, see {log_file}: {said[-2000:]}")

    def _environ(self, service: _Service) -> dict[str, str]:
        settings = {"LISTEN": f"{LOOPBACK}:{self._home.port(service.process_name)}"}
        if self._home.has_tls:
            settings |= self._tls(service)
        groups = self._groups(service.name)
        for group in service.uses:
            settings |= self._node(service) if group == "node" else groups[group]
        return _prefixed(service.name, settings) | dict(service.environ)

    def _groups(self, service: str) -> dict[str, dict[str, str]]:
        """The settings that services share, by what they are for."""
        home = self._home
        return {
            "postgres": {"POSTGRES_DSN_FILE": str(self._dsn_file(service))},
            "kafka": {
                "KAFKA_BOOTSTRAP": self._kafka.bootstrap,
                "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
                "KAFKA_SASL_USERNAME": KAFKA_USER,
                "KAFKA_SASL_PASSWORD_FILE": str(self._kafka.password_file),
            },
            "s3": self._store_settings("S3", BUCKET),
            "second_s3": (
                self._store_settings("SECOND_S3", SECOND_BUCKET) if home.has_second_store else {}
            ),
            "kek": {"KEK_FILE": str(home.secret_file("kek"))},
            "previous_kek": self._previous_kek(),
            "tokens": {"TOKENS_FILE": str(self._tokens_file())},
            "coordinator": {
                "COORDINATOR_URL": home.service_url("coordinator"),
            },
            "links": {"CATALOG_URL": home.service_url("catalog")},
            "nodes": {
                "NODE_KEY_FILE": str(home.secret_file("node-key")),
                "NODES_LISTEN": f"{LOOPBACK}:{home.port('coordinator-nodes')}",
                "AGENT_NETWORKS": f"{LOOPBACK}/32",
            },
        }

    def _previous_kek(self) -> dict[str, str]:
        """While the key-encryption key is changed: where the one that was used before lies."""
        file = self._home.folder / "secrets" / "previous-kek"
        return {"PREVIOUS_KEK_FILE": str(file)} if file.exists() else {}

    def _tls(self, service: _Service) -> dict[str, str]:
        """What it shows, and whom it trusts if it calls other services."""
        home, trusts = self._home, service.name in _CALLING
        return {
            "TLS_CERTIFICATE_FILE": str(home.secret_file("tls.crt")),
            "TLS_KEY_FILE": str(home.secret_file("tls.key")),
            **({"CA_FILE": str(home.secret_file("tls-ca.pem"))} if trusts else {}),
        }

    def make_certificates(self) -> None:
        """Write a certificate for all services, and the authority's, unless they are there.

        The authority's key is forgotten: nobody can sign anything else by it.
        """
        counted = range(1, max(2, self._home.agent_count) + 1)
        names = [LOOPBACK, "localhost", *(node_name(number) for number in counted)]
        made_for = self._home.secret_file("tls-names")
        if made_for.read_text() == json.dumps(names):
            return
        authority = Authority.new(f"backcast dev on {socket.gethostname()}")
        shown = authority.issue(names)
        self._home.write_secret("tls-ca.pem", authority.own.certificate)
        self._home.write_secret("tls.crt", shown.certificate)
        self._home.write_secret("tls.key", shown.key)
        self._home.write_secret("tls-names", json.dumps(names))

    def _node(self, agent: _Service) -> dict[str, str]:
        """What each agent has of its own."""
        name, home = agent.process_name, self._home
        return {
            "NODE": node_name(agent.number),
            "COORDINATOR_URL": home.service_url("coordinator-nodes"),
            "CREDENTIAL_FILE": str(self._credential_file(agent)),
            "SPAN_LISTEN": f"{LOOPBACK}:{home.port(f'{name}-spans')}",
            "STATE_FOLDER": str(home.data(name)),
            "FILTERS_FOLDER": str(home.filters_folder(name)),
            # Whoever has this home's token is the user who runs the agent, so that the agent opens
            # what the user may read: the kernel refuses the rest.
            "ROOTS": "*=/",
        }

    def _credential_file(self, agent: _Service) -> Path:
        """The credential of an agent, which the coordinator's key alone makes good."""
        name, home = agent.process_name, self._home
        chosen = UUID(hex=home.secret(f"{name}-credential-id")[:32])
        credential = NodeKey(home.secret("node-key")).credential(node_name(agent.number), chosen)
        return home.write_secret(f"{name}-credential", credential.text)

    def _store_settings(self, prefix: str, bucket: str) -> dict[str, str]:
        return {
            f"{prefix}_ENDPOINT": self._s3.endpoint,
            f"{prefix}_BUCKET": bucket,
            f"{prefix}_ACCESS_KEY_FILE": str(self._home.secret_file("s3-access-key")),
            f"{prefix}_SECRET_KEY_FILE": str(self._home.secret_file("s3-secret-key")),
        }

    def _dsn_file(self, login: str) -> Path:
        dsn = self._postgres.dsn_of(login, self._home.secret(f"postgres-{login}-password"))
        return self._home.write_secret(f"postgres-{login}.dsn", dsn)

    def _tokens_file(self) -> Path:
        digest = hashlib.sha256(self._home.secret("token").encode()).hexdigest()
        entry = {"name": "local", "sha256": digest, "tenant": "*", "roles": ["workstation"]}
        return self._home.write_secret("tokens.json", json.dumps([entry]))


def _prefixed(service: str, settings: Mapping[str, str]) -> dict[str, str]:
    return {f"BACKCAST_{service.upper()}_{name}": value for name, value in settings.items()}


def node_name(number: int) -> str:
    """This machine's name as a node name: lower case, and only what names may contain.

    Agents from the second one on call themselves other nodes, though they see the same files.
    """
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in socket.gethostname().lower())
    ending = "" if number == 1 else f"-{number}"
    return (kept.strip("-")[: 63 - len(ending)].strip("-") or "local") + ending
