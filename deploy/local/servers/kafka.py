"""One Kafka node (KRaft: broker and controller in one process), on loopback only.

Every user of the machine reaches loopback, so both listeners ask for a password. Clients prove that
they know theirs by SCRAM, as in a cluster: whoever takes the port while the broker is down learns
nothing that it could use later. The broker has the users in its log, where the preparation of the
log puts them. The controller's listener cannot use these; there the broker shows itself its own
password (PLAIN), over a port that it has taken itself.
"""

import base64
import os
import socket
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deploy.local.home import LOOPBACK, BackcastHome, make_folder_once
from deploy.local.lock import Tell
from deploy.local.servers.kafka_classes import kept_classes
from deploy.local.servers.kafka_jars import ensure_java, kafka_jars
from deploy.local.servers.server import LocalServer
from libs.errors import ConfigurationError, InvariantViolation, UnavailableError
from libs.runtime.groups import KafkaSettings
from libs.runtime.settings import Secret

#: Twice the largest event (256 KiB): a producer that does not check is refused here too.
MESSAGE_SIZE_BYTES_MAX = 512 << 10
#: The one user: of services and tests, and of the broker.
USER = "backcast"
#: Static voters: a quorum made by `format --standalone` remembers its port, this one may move.
_SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=CLIENTS://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=CLIENTS://{host}:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=CLIENTS
listener.security.protocol.map=CLIENTS:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512
sasl.mechanism.controller.protocol=PLAIN
listener.name.clients.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.clients.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.\
ScramLoginModule required username="{user}" password="{password}";
listener.name.controller.sasl.enabled.mechanisms=PLAIN
listener.name.controller.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.\
PlainLoginModule required username="{user}" password="{own_password}" user_{user}="{own_password}";
log.dirs={folder}
auto.create.topics.enable=false
message.max.bytes={message_size_bytes_max}
num.partitions=1
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.retention.hours=168
log.segment.bytes=134217728
log.cleaner.dedupe.buffer.size=33554432
"""
_JAVA = (
    "java",
    "-Xmx512m",
    # A small young generation goes round in the same memory: 50 MiB less are resident.
    "-Xms128m",
    "-Xmn16m",
    "-XX:+UseSerialGC",
    # A broker that passes a few events a second for some minutes pays more for the optimising
    # compiler (half of its CPU time) than it gains.
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
)
_API_VERSIONS = struct.pack(">hhih", 18, 0, 1, -1)  # key, version, correlation id, no client id


class KafkaServer(LocalServer):
    """Apache Kafka from Maven artifacts on Debian's Java."""

    def __init__(self, home: BackcastHome) -> None:
        super().__init__(home, "kafka", ("kafka", "kafka-controller"))
        self._jars: Path | None = None
        #: Options of Java besides `_JAVA`.
        self._options: Sequence[str] = ()

    @property
    def bootstrap(self) -> str:
        """The bootstrap servers that clients are given."""
        return self.address

    @property
    def password_file(self) -> Path:
        """The file of the password of `USER`."""
        return self.home.secret_file("kafka-password")

    @property
    def client_settings(self) -> KafkaSettings:
        """How a client reaches the broker, and who it is."""
        return KafkaSettings(
            bootstrap=self.bootstrap,
            security_protocol="SASL_PLAINTEXT",
            sasl_username=USER,
            sasl_password=Secret(self.password_file.read_text()),
        )

    def prepare(self, tell: Tell) -> None:
        """Install Java and fetch the jars if they are missing, and keep the broker's classes."""
        java = ensure_java(tell)
        self._jars = kafka_jars(tell)
        self._options = kept_classes(self._jars, java, self._record, tell)

    def spawn(self) -> None:
        """Start the broker; its first start names the cluster.

        Raises:
            ConfigurationError: the folder is of a release whose broker had no users.
        """
        folder = self.home.data(self.name)
        make_folder_once(folder / "log", self._format)
        _require_user(folder)
        settings = self._write_settings(folder / "log")
        argv = broker_command(self._prepared(), settings, self._options)
        self.process.start(argv, folder=folder)

    def is_ready(self) -> bool:
        """Whether it answers a request, which it does once it has joined its controller."""
        try:
            with socket.create_connection((LOOPBACK, self.home.port("kafka")), timeout=2) as link:
                link.sendall(struct.pack(">i", len(_API_VERSIONS)) + _API_VERSIONS)
                answer = link.recv(10, socket.MSG_WAITALL)
        except OSError:
            return False
        return len(answer) == 10 and struct.unpack(">iih", answer)[1:] == (1, 0)

    def settings(self, log_folder: Path) -> str:
        """The broker's settings, for a log in ``log_folder``."""
        return _SETTINGS.format(
            host=LOOPBACK,
            port=self.home.port("kafka"),
            controller_port=self.home.port("kafka-controller"),
            folder=log_folder,
            user=USER,
            password=self.password_file.read_text(),
            own_password=self.home.secret("kafka-controller-password"),
            message_size_bytes_max=MESSAGE_SIZE_BYTES_MAX,
        )

    def _record(self, option: str) -> None:
        """Run a broker of its own with one more option of Java, until it serves."""
        with tempfile.TemporaryDirectory(prefix="backcast-kafka-") as folder:
            broker = KafkaServer(BackcastHome(Path(folder), tied=True))
            broker._jars, broker._options = self._jars, [option]
            try:
                broker.spawn()
                broker.wait_ready()
            finally:
                broker.stop()

    def _prepared(self) -> Path:
        if self._jars is None:
            raise InvariantViolation("Kafka is started before prepare() was called")
        return self._jars

    def format_arguments(self, jars: Path, settings: Path) -> str:
        """The file of arguments that `format_command` reads: it has the users' passwords."""
        # A leading '-' of the cluster id would be taken for an option: clear the first bit.
        raw = os.urandom(16)
        cluster = base64.urlsafe_b64encode(bytes([raw[0] & 0x7F]) + raw[1:]).decode().rstrip("=")
        user = f"SCRAM-SHA-512=[name={USER},password={self.password_file.read_text()}]"
        tool = ("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(settings))
        java = (*_JAVA[1:], *self._options)
        arguments = (*java, "-cp", f"{jars}/*", *tool, "--add-scram", user)
        return "".join(f"{_quoted(argument)}\n" for argument in arguments)

    def _format(self, folder: Path) -> None:
        settings = self._write_settings(folder)
        arguments = self.format_arguments(self._prepared(), settings)
        file = self.home.write_secret("kafka-format.args", arguments)
        argv = format_command(file)
        finished = subprocess.run(argv, capture_output=True, text=True, check=False)
        file.unlink()
        if finished.returncode:
            said = (finished.stdout + finished.stderr).strip()
            raise UnavailableError(f"Kafka could not format {folder}: {said[-2000:]}")

    def _write_settings(self, log_folder: Path) -> Path:
        return self.home.write_secret("kafka.properties", self.settings(log_folder))


def _require_user(folder: Path) -> None:
    """Refuse a folder that was prepared without `USER`: nobody could log in, and nothing says why.

    The preparation writes the users to a file that no broker changes.
    """
    prepared = folder / "log" / "bootstrap.checkpoint"
    if prepared.exists() and USER.encode() not in prepared.read_bytes():
        raise ConfigurationError(
            f"Kafka's folder {folder} was made by an earlier release, whose broker asked for no "
            f"password, so it has no user who could log in. Kafka holds copies only, and without "
            f"them no snapshot is lost: run `backcast dev down`, remove this folder, and run "
            f"`backcast dev up`, which makes it anew"
        )


def broker_command(jars: Path, settings: Path, options: Sequence[str] = ()) -> list[str]:
    """What runs the broker, with the jars of a folder and more options of Java."""
    return [*_JAVA, *options, "-cp", f"{jars}/*", "kafka.Kafka", str(settings)]


def format_command(arguments: Path) -> list[str]:
    """What prepares the folder of the broker's log, under a new name of the cluster.

    Args:
        arguments: file of `KafkaServer.format_arguments`: everybody sees a command line.
    """
    return [_JAVA[0], f"@{arguments}"]


def _quoted(argument: str) -> str:
    """An argument as Java reads it from a file."""
    escaped = argument.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
