"""Whom a chunker expects behind an agent's address, and where it does without TLS."""

import dataclasses
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from libs.catalogdb.sessions.session import PartView
from libs.errors import UnavailableError
from libs.runtime.groups import KafkaSettings, PostgresSettings, S3Settings
from libs.runtime.settings import Secret
from libs.runtime.tls import ServerTls
from services.change_capture.agent.spans.server import SpanServer
from services.change_capture.agent.window import Window
from services.chunker.parts.dialling import Dialler
from services.chunker.settings import Settings
from tests.support.certificates import Site

SETTINGS = Settings(
    postgres=PostgresSettings(dsn=Secret("")),
    kafka=KafkaSettings(bootstrap="127.0.0.1:1"),
    s3=S3Settings(
        endpoint="http://127.0.0.1:1", bucket="b", access_key=Secret(""), secret_key=Secret("")
    ),
    kek=Secret(""),
)
BOOT, CAPTURE, TOKEN = UUID(int=1), uuid4(), bytes(32)
#: This host, written so that nobody can be sure of it.
BEYOND = "127.1"

Agent = Callable[..., PartView]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def agent(site: Site) -> Iterator[Agent]:
    """Starts an agent of a node, with a certificate or without, and gives a part of it."""
    servers: list[SpanServer] = []
    order = SimpleNamespace(capture=CAPTURE, token=TOKEN)
    capture = SimpleNamespace(order=order, boot=BOOT)

    def start(host: str, names: tuple[str, ...]) -> PartView:
        files = site.issue(names) if names else None
        shown = ServerTls(files.certificate, files.key) if files else None
        servers.append(SpanServer("127.0.0.1:0", Window(1), lambda _: cast("Any", capture), shown))
        address = servers[-1].address.replace("127.0.0.1", host)
        part = SimpleNamespace(span_address=address, capture=CAPTURE, token=TOKEN, node="node-1")
        return cast("PartView", part)

    yield start
    for server in servers:
        server.close()


def test_the_node_is_verified_whatever_its_address(agent: Agent, site: Site) -> None:
    dial = Dialler(dataclasses.replace(SETTINGS, ca_file=site.ca_file))
    dial(agent(BEYOND, ("node-1",)), BOOT).close()
    with pytest.raises(UnavailableError, match=r"not trusted .*node-1"):
        dial(agent("127.0.0.1", ("127.0.0.1", "node-2")), BOOT)


def test_a_name_that_all_agents_share_is_verified(agent: Agent, site: Site) -> None:
    settings = dataclasses.replace(SETTINGS, ca_file=site.ca_file, agent_tls_name="agents.example")
    dial = Dialler(settings)
    dial(agent(BEYOND, ("agents.example",)), BOOT).close()
    with pytest.raises(UnavailableError, match=r"not trusted .*agents\.example"):
        dial(agent(BEYOND, ("node-1",)), BOOT)


def test_with_a_ca_file_no_agent_is_believed_without_tls(agent: Agent, site: Site) -> None:
    dial = Dialler(dataclasses.replace(SETTINGS, ca_file=site.ca_file, plaintext="anywhere"))
    with pytest.raises(UnavailableError, match="no TLS"):
        dial(agent("127.0.0.1", ()), BOOT)


def test_beyond_loopback_there_is_tls_or_a_word(agent: Agent) -> None:
    dial = Dialler(SETTINGS)
    dial(agent("127.0.0.1", ()), BOOT).close()
    with pytest.raises(UnavailableError, match="no TLS"):
        dial(agent(BEYOND, ()), BOOT)
    with pytest.raises(UnavailableError, match="name the CA file"):
        dial(agent(BEYOND, ("node-1",)), BOOT)
    Dialler(dataclasses.replace(SETTINGS, plaintext="anywhere"))(agent(BEYOND, ()), BOOT).close()


def test_spans_need_the_newest_tls(site: Site) -> None:
    dial = Dialler(dataclasses.replace(SETTINGS, ca_file=site.ca_file))
    assert dial._trusted.current().minimum_version is ssl.TLSVersion.TLSv1_3
