"""What an agent's settings say of what it opens."""

import os
from pathlib import Path

import pytest

from libs.errors import ConfigurationError, SourceError
from libs.runtime.settings import load
from services.change_capture.agent.settings import Settings
from services.change_capture.drivers.local.roots import Roots


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Every secret in a folder of its own; the tokens as Kubernetes writes them, by links."""
    for name in ("coordinator", "kafka", "tls", "certificates", "tokens", "tokens/..2026", "state"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("secret")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("secret")
    (tmp_path / "tokens" / "tokens.json").symlink_to("..2026/file")
    (tmp_path / "kafka" / "password").symlink_to(elsewhere / "file")
    return {
        "BACKCAST_AGENT_KAFKA_BOOTSTRAP": "localhost:1",
        "BACKCAST_AGENT_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "BACKCAST_AGENT_KAFKA_SASL_USERNAME": "agent",
        "BACKCAST_AGENT_KAFKA_SASL_PASSWORD_FILE": str(tmp_path / "kafka" / "password"),
        "BACKCAST_AGENT_COORDINATOR_URL": "http://localhost:1",
        "BACKCAST_AGENT_INVITATION_FILE": str(tmp_path / "coordinator" / "file"),
        "BACKCAST_AGENT_CREDENTIAL_FILE": str(tmp_path / "tokens" / "tokens.json"),
        "BACKCAST_AGENT_TLS_CERTIFICATE_FILE": str(tmp_path / "certificates" / "file"),
        "BACKCAST_AGENT_TLS_KEY_FILE": str(tmp_path / "tls" / "file"),
        "BACKCAST_AGENT_STATE_FOLDER": str(tmp_path / "state"),
        "BACKCAST_AGENT_ROOTS": f"acme={tmp_path}",
    }


def is_open(roots: Roots, path: Path) -> bool:
    try:
        roots.open("acme", path).close()
    except SourceError:
        return False
    return True


def test_the_folders_of_all_secrets_and_the_state_are_closed(
    environ: dict[str, str], tmp_path: Path
) -> None:
    roots = load(Settings, "agent", environ).opened_roots()
    secret = ("coordinator", "kafka", "tls", "tokens", "tokens/..2026", "elsewhere", "state")
    for name in secret:
        (tmp_path / name / "beside").write_text("another secret")
        assert not is_open(roots, tmp_path / name / "beside")
    assert not is_open(roots, tmp_path / "tokens" / "tokens.json")
    os.link(tmp_path / "tls" / "file", tmp_path / "key")
    assert not is_open(roots, tmp_path / "key")
    assert is_open(roots, tmp_path / "certificates" / "file")


def test_an_agent_without_roots_does_not_start(environ: dict[str, str]) -> None:
    del environ["BACKCAST_AGENT_ROOTS"]
    with pytest.raises(ConfigurationError, match="BACKCAST_AGENT_ROOTS: must be set"):
        load(Settings, "agent", environ)


def test_a_root_that_is_no_root_is_named(environ: dict[str, str]) -> None:
    environ["BACKCAST_AGENT_ROOTS"] = "acme=/srv,/var"
    with pytest.raises(ConfigurationError, match="root '/var': expected TENANT=PATH"):
        load(Settings, "agent", environ)


def test_a_root_within_the_state_stops_the_agent(environ: dict[str, str], tmp_path: Path) -> None:
    environ["BACKCAST_AGENT_ROOTS"] = f"acme={tmp_path}/state"
    with pytest.raises(ConfigurationError, match="it lies in what holds the agent's own"):
        load(Settings, "agent", environ).opened_roots()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BACKCAST_AGENT_SPAN_LISTEN", "0.0.0.0:8081"),
        ("BACKCAST_AGENT_COORDINATOR_URL", "http://coordinator.example:8080"),
    ],
)
def test_spans_and_tokens_do_not_leave_the_host_without_tls(
    environ: dict[str, str], name: str, value: str
) -> None:
    environ |= {name: value}
    for ending in ("CERTIFICATE_FILE", "KEY_FILE"):
        del environ[f"BACKCAST_AGENT_TLS_{ending}"]
    with pytest.raises(ConfigurationError, match=r"beyond loopback .*PLAINTEXT=anywhere"):
        load(Settings, "agent", environ)
    word = {"BACKCAST_AGENT_PLAINTEXT": "anywhere"}
    assert load(Settings, "agent", environ | word).plaintext == "anywhere"
