"""`backcast dev up --tls`: a backup and its restore where everybody speaks TLS."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.servers.http_probe import status_of
from deploy.local.servers.s3 import S3Choice
from libs.errors import UnavailableError
from libs.spans.connection import SpanConnection
from tests.support.running import RunningSite, eventually, running_site

MIB = 1 << 20
COMMAND = Path(sys.executable).with_name("backcast")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    with running_site(tmp_path_factory, S3Choice.SOONEST, tls=True) as made:
        yield made


def backcast(
    site: RunningSite, *arguments: str | Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """The command, as a client that is told where the services are."""
    told = site.cluster.environment()
    environ = {name: told[name] for name in ("BACKCAST_URL", "BACKCAST_TOKEN", "BACKCAST_CA_FILE")}
    return subprocess.run(
        [COMMAND, *arguments],
        env=os.environ | environ | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_volume_comes_back_over_tls(site: RunningSite, tmp_path: Path) -> None:
    path = site.volume("disk", 40 * MIB)
    taken = backcast(site, "snapshot", "take", "disk", "--json")
    assert taken.returncode == 0, taken.stderr
    assert json.loads(taken.stdout)["volume"] == "disk"
    assert site.matches("disk", path)
    out = tmp_path / "out"
    restored = backcast(site, "restore", "disk@latest", out)
    assert restored.returncode == 0, restored.stderr
    assert out.read_bytes() == path.read_bytes()


def test_no_service_answers_without_tls(site: RunningSite) -> None:
    for name in ("catalog", "coordinator", "agent", "chunker", "restore"):
        plain = site.cluster.home.service_url(name).replace("https:", "http:")
        assert status_of(f"{plain}/healthz") is None
    ((address, capture, boot),) = site.sql(
        """SELECT node.span_address, gen_random_uuid(), node.boot FROM node"""
    )
    with pytest.raises(UnavailableError, match="does it expect TLS"):
        SpanConnection(address, capture, boot, bytes(32), 5.0)


def test_the_command_says_whom_it_does_not_believe(site: RunningSite, tmp_path: Path) -> None:
    said = backcast(site, "volume", "list", BACKCAST_CA_FILE="")
    assert said.returncode == 11
    assert "the server's certificate is not trusted" in said.stderr
    assert "name the CA file of its issuer" in said.stderr
    missing = backcast(site, "volume", "list", BACKCAST_CA_FILE=str(tmp_path / "nowhere"))
    assert missing.returncode == 11
    assert "nowhere" in missing.stderr
    by_name = site.cluster.home.url.replace("127.0.0.1", "localhost")
    assert backcast(site, "volume", "list", BACKCAST_URL=by_name).returncode == 0


def test_new_certificates_are_taken_without_a_restart(site: RunningSite) -> None:
    home = site.cluster.home
    pids = {one.name: one.pid for one in site.cluster.status()}
    home.write_secret("tls-names", "[]")
    before = home.secret_file("tls.crt").read_text()
    site.cluster.up(print)
    assert home.secret_file("tls.crt").read_text() != before
    assert {one.name: one.pid for one in site.cluster.status()} == pids
    eventually("all are ready", lambda: all(one.ready for one in site.cluster.status()))
    path = site.volume("later", 2 * MIB)
    eventually("snapshots are taken", lambda: site.take("later")["state"] == "sealed")
    assert backcast(site, "restore", "later@latest", path.with_suffix(".out")).returncode == 0
