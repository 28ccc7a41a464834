"""Servers of tests in containers: what is there, what is left behind, and where they come from.

Where no engine has the images, those tests are skipped that need one.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
from libs.errors import ConfigurationError, UnavailableError
from libs.store.buckets import make_bucket
from tests.support.buckets import bucket_at


@pytest.fixture
def client() -> Iterator[Any]:
    if not can_be_had():
        pytest.skip("no container engine that has the images of `make images`")
    with engine() as found:
        yield found


def ours(client: Any) -> set[str]:
    return {one.id for one in client.containers.list(all=True, filters={"label": OWNER})}


def test_the_three_servers_answer_and_leave_nothing(client: Any, tmp_path: Path) -> None:
    before = ours(client)
    with container_servers(BackcastHome(tmp_path)) as servers:
        assert len(ours(client) - before) == 3
        with psycopg.connect(servers.postgres.dsn) as database:
            assert database.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(servers.postgres.dsn_of("postgres", "another"))
        make_bucket(bucket_at(servers.s3, "test"))
        assert servers.kafka.is_ready()
    assert ours(client) == before
    assert not servers.kafka.is_ready()


def test_what_a_killed_run_left_is_removed_and_nothing_else(client: Any) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    image, forever = IMAGES["minio"], ["sleep", "600"]
    living = f"{os.getpid()} {_began(os.getpid())}"
    left = [
        client.containers.run(
            image, forever, detach=True, network_mode="none", labels={OWNER: owner}
        )
        for owner in (f"{ended.pid} 1", f"{os.getpid()} 1", living)
    ]
    try:
        remove_abandoned(client)
        assert {one.id for one in left} & ours(client) == {left[2].id}
    finally:
        for one in left:
            if one.id in ours(client):
                one.remove(force=True)


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


def test_a_choice_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected auto, local, containers, got 'docker'"):
        server_choice("docker")


def _began(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
