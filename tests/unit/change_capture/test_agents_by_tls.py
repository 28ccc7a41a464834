"""How a coordinator reaches agents: by TLS beyond loopback, whatever they have announced."""

import dataclasses
from pathlib import Path
from uuid import uuid4

import pytest

from libs.errors import ConfigurationError, NotFoundError, UnavailableError
from libs.ids import NodeIdentity
from libs.keys.nodes import NodeKey
from libs.rest.server import create_app, serving
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry
from services.change_capture.coordinator.agents import AgentAddress, Agents
from tests.support.certificates import Site

SETTINGS = ServiceSettings(listen="127.0.0.1:0", stop_timeout_seconds=1)
KEY = NodeKey("k" * 64)


def admit_all(_address: str) -> None:
    """An agent may be anywhere."""


def address(url: str) -> AgentAddress:
    return AgentAddress(NodeIdentity("node-1", uuid4()), url)


@pytest.mark.parametrize("host", ["192.0.2.1", "node-1.example", "[2001:db8::1]"])
def test_no_token_leaves_the_host_without_tls(host: str) -> None:
    with pytest.raises(UnavailableError, match="beyond loopback and without TLS"):
        Agents(KEY, admit_all).status(address(f"http://{host}:8080"), uuid4())


def test_agents_are_verified_by_their_host_or_by_the_name_that_they_share(tmp_path: Path) -> None:
    site = Site(tmp_path)
    files = site.issue(["agents.example"])
    settings = dataclasses.replace(
        SETTINGS, tls_certificate_file=files.certificate, tls_key_file=files.key
    )
    app = create_app("agent", settings, Health(), new_registry())
    with serving(app, settings) as url:
        with pytest.raises(ConfigurationError, match="IP address mismatch"):
            Agents(KEY, admit_all, site.ca_file).status(address(url), uuid4())
        with pytest.raises((NotFoundError, UnavailableError), match=r"404|Not Found"):
            Agents(KEY, admit_all, site.ca_file, "agents.example").status(address(url), uuid4())
