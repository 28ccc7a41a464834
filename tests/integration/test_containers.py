"""Servers of tests in containers: what is there, what is left behind, and where they come from.

Where no engine has the images, those tests are skipped that need one.
"""

import asyncio
import dataclasses
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import docker
import psycopg
import pytest

from deploy.images.build import IMAGES
from deploy.local.containers import (
    OWNER,
    can_be_had,
    container_servers,
    engine,
    remove_abandoned,
)
from deploy.local.fixtures import server_choice
from deploy.local.home import BackcastHome
from deploy.local.process import wait_until
from deploy.local.servers import minio_build
from deploy.local.servers.postgres import postgres_programs
from libs.errors import ConfigurationError, UnavailableError
from libs.events.topics import TOPICS
from libs.kafka.topics import ensure_topics
from libs.runtime.settings import Secret
from libs.store.buckets import make_bucket
from tests.support.buckets import bucket_at

#: What containers of this process say about whose they are.
LIVING = f"{os.getpid()} {Path('/proc/self/stat').read_text().rpartition(')')[2].split()[19]}"


@pytest.fixture
def client() -> Iterator[Any]:
    if not can_be_had():
        pytest.skip("no container engine that has the images of `make images`")
    with engine() as found:
        yield found


def ours(client: Any) -> set[str]:
    """Containers of this process: those of others come and go meanwhile."""
    found = client.containers.list(all=True, filters={"label": f"{OWNER}={LIVING}"})
    return {one.id for one in found}


@pytest.fixture
def left(client: Any) -> Iterator[list[str]]:
    """Containers that nobody owns any more, and one whose owner lives; the latter is the last."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    ids: list[str] = []
    try:
        owners = (f"{ended.pid} 1", f"{os.getpid()} 1", f"{ended.pid} 2", LIVING)
        ids.extend(run_forever(client, owner) for owner in owners)
        yield ids
    finally:
        for one in ids:
            with unless_gone():
                client.api.remove_container(one, force=True)


@contextmanager
def unless_gone() -> Iterator[None]:
    """Another test process that starts its servers removes what nobody owns, at any moment."""
    try:
        yield
    except docker.errors.APIError as error:
        if error.status_code not in {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}:
            raise


def run_forever(client: Any, owner: str) -> str:
    """Start a container that ends by itself no sooner than the tests."""
    api = client.api
    offline = api.create_host_config(network_mode="none")
    image, command = IMAGES["minio"], ["sleep", "6000"]
    made = api.create_container(image, command, labels={OWNER: owner}, host_config=offline)["Id"]
    with unless_gone():
        api.start(made)
    return str(made)


def test_the_three_servers_answer_and_leave_nothing(client: Any, tmp_path: Path) -> None:
    before = ours(client)
    with container_servers(BackcastHome(tmp_path)) as servers:
        assert len(ours(client) - before) == 3
        with psycopg.connect(servers.postgres.dsn) as database:
            assert database.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(servers.postgres.dsn_of("postgres", "another"))
        make_bucket(bucket_at(servers.s3, "test"))
        guessed = dataclasses.replace(
            servers.kafka.client_settings, sasl_password=Secret("guessed")
        )
        with pytest.raises(UnavailableError):
            asyncio.run(ensure_topics(guessed, TOPICS, replication_factor=1))
        asyncio.run(ensure_topics(servers.kafka.client_settings, TOPICS, replication_factor=1))
    assert ours(client) == before
    assert not servers.kafka.is_ready()


def test_what_a_killed_run_left_is_removed_and_nothing_else(client: Any, left: list[str]) -> None:
    remove_abandoned(client)
    # Another process that is just removing one may need a moment more.
    assert wait_until(lambda: not known(client, left[:-1]), 60)
    assert known(client, left) == [left[-1]]


def test_many_processes_remove_what_was_left_at_the_same_time(left: list[str]) -> None:
    def remove(_: int) -> None:
        with engine() as client:
            remove_abandoned(client)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(remove, range(8)))


@pytest.mark.usefixtures("client")
def test_what_the_engine_refuses_is_told_as_an_error_of_ours() -> None:
    with (
        pytest.raises(UnavailableError, match=r"engine failed: .*backcast-test/none"),
        engine() as client,
    ):
        client.images.get("backcast-test/none")


def test_where_no_engine_answers_servers_are_local_or_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    assert not can_be_had()
    with (
        pytest.raises(UnavailableError, match="no container engine answers"),
        container_servers(BackcastHome(tmp_path / "home")),
    ):
        pass


def test_images_are_named_by_the_versions_of_local_servers() -> None:
    built_on = minio_build._VERSION.split("-")[1]
    assert built_on.startswith(IMAGES["minio"].partition(":")[2])
    jars = Path(minio_build.__file__).with_name("jars.sha256").read_text()
    assert f"  kafka-server-{IMAGES['kafka'].partition(':')[2]}.jar\n" in jars
    assert postgres_programs().parent.name == f"pginstall{IMAGES['postgres'].partition(':')[2]}"


def test_a_choice_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected auto, local, containers, got 'docker'"):
        server_choice("docker")


def known(client: Any, ids: list[str]) -> list[str]:
    """Those that the engine still has."""
    there = {one["Id"] for one in client.api.containers(all=True, filters={"label": OWNER})}
    return [one for one in ids if one in there]
