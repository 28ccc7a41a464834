"""deploy/Dockerfile and deploy/compose.yaml, as far as they can be checked without Docker."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.compose import credentials
from deploy.local import services as local
from k8s.checks.settings import SETTINGS, problems_of
from libs.keys.kek import KeyEncryptionKey
from libs.keys.nodes import NodeCredential, NodeKey
from libs.rest.auth import Tokens
from services.change_capture.coordinator.nodes.tokens import NodeTokens

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
SECOND_STORE = yaml.safe_load((ROOT / "deploy" / "compose.second-store.yaml").read_text())


def on_top(below: Any, above: Any) -> Any:
    """What Docker Compose makes of two files: fields into fields, lists one after the other."""
    if isinstance(below, dict) and isinstance(above, dict):
        merged = {name: on_top(below[name], above[name]) for name in below.keys() & above.keys()}
        return below | above | merged
    return below + above if isinstance(below, list) and isinstance(above, list) else above


WITH_SECOND_STORE = on_top(COMPOSE, SECOND_STORE)
FILES = {"compose.yaml": COMPOSE, "compose.second-store.yaml": WITH_SECOND_STORE}
#: Service, or service with a second store → its definition.
OURS = {
    f"{name}{'' if made is COMPOSE else ' with a second store'}": made["services"][name]
    for made in FILES.values()
    for name in SETTINGS
}


def stage(target: str) -> str:
    found = re.search(
        rf"^FROM \S+ AS {target}\n(.*?)(?=^FROM|\Z)", DOCKERFILE, re.DOTALL | re.MULTILINE
    )
    assert found, target
    return found[1]


@pytest.mark.parametrize("service", OURS)
def test_a_service_starts_with_its_variables(service: str) -> None:
    environ = {name: str(value) for name, value in OURS[service]["environment"].items()}
    name = service.partition(" ")[0]
    image = dict(re.findall(r"(BACKCAST_\w+)=(\S+)", stage(name)))
    assert list(problems_of(name, image | environ)) == []


@pytest.mark.parametrize("service", OURS)
def test_a_service_is_given_exactly_the_secrets_that_it_names(service: str) -> None:
    values = OURS[service]["environment"].values()
    named = {
        str(value).removeprefix("/run/secrets/")
        for value in values
        if "/run/secrets/" in str(value)
    }
    assert named == set(OURS[service]["secrets"])


@pytest.mark.parametrize("service", OURS)
def test_a_service_runs_hardened(service: str) -> None:
    definition = OURS[service]
    assert definition["read_only"]
    assert definition["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in definition["security_opt"]


def test_all_but_the_coordinator_and_the_agent_are_given_the_second_store() -> None:
    given = {
        name: {key.rpartition("_SECOND_S3_")[2] for key in definition.get("environment", ())}
        for name, definition in SECOND_STORE["services"].items()
        if name in SETTINGS
    }
    assert given.keys() == SETTINGS.keys() - {"coordinator", "agent"}
    assert set(map(frozenset, given.values())) == {
        frozenset({"ENDPOINT", "BUCKET", "ACCESS_KEY_FILE", "SECRET_KEY_FILE"})
    }


def test_nothing_assumes_localhost() -> None:
    for service in WITH_SECOND_STORE["services"].values():
        assert not re.search(r"localhost|127\.0\.0\.1", json.dumps(service))


def test_every_image_names_its_version() -> None:
    for name, service in WITH_SECOND_STORE["services"].items():
        assert re.search(r":[0-9][\w.-]+$", service["image"]), name


def test_every_secret_of_compose_is_made(tmp_path) -> None:
    made = credentials.make(tmp_path)
    for secret in WITH_SECOND_STORE["secrets"].values():
        assert Path(secret["file"]).name in made
    for compose in FILES.values():
        for service in compose["services"].values():
            assert set(service.get("secrets", ())) <= compose["secrets"].keys()


def test_secrets_are_kept_once_made_and_closed_to_others(tmp_path) -> None:
    folder = tmp_path / "secrets"
    assert credentials.make(folder)
    before = {file.name: file.read_text() for file in folder.iterdir()}
    assert credentials.make(folder) == []
    assert {file.name: file.read_text() for file in folder.iterdir()} == before
    assert folder.stat().st_mode & 0o077 == 0


def test_made_secrets_are_accepted(tmp_path) -> None:
    credentials.make(tmp_path)

    def text(name: str) -> str:
        return (tmp_path / name).read_text()

    KeyEncryptionKey.parse(text("kek"))
    services = ("restore", "coordinator", "catalog")
    people = [Tokens(text(f"{name}-accepts.json")) for name in services]
    assert all(accepted.find(text("token")) for accepted in people)
    credential = NodeCredential.parse(text("agent-credential"))
    assert NodeTokens(NodeKey(text("node-key"))).find(credential.announce_token)
    assert not any(accepted.find(credential.announce_token) for accepted in people)
    agent = COMPOSE["services"]["agent"]["environment"]
    assert credential.node == agent["BACKCAST_AGENT_NODE"]


def test_images_keep_large_buffers_as_local_services_do() -> None:
    mover: dict[str, Any] = dict(re.findall(r"(MALLOC_\w+)=(\S+)", stage("mover")))
    assert mover == local._LARGE_BUFFERS


def test_images_run_without_root_and_install_what_is_locked() -> None:
    assert re.findall(r"^USER (.*)$", stage("service"), re.MULTILINE)[-1] == "65532:65532"
    assert re.findall(r"^USER (.*)$", stage("agent"), re.MULTILINE)[-1] == "65532:65532"
    assert "uv sync --quiet --frozen" in stage("build")
    (version,) = re.findall(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert f"uv=={version}" in stage("build")


@pytest.mark.parametrize("target", [*SETTINGS, "cli"])
def test_every_target_starts_without_a_shell(target: str) -> None:
    (module,) = re.findall(
        r'^ENTRYPOINT \["python", "-m", "([\w.]+)"\]$', stage(target), re.MULTILINE
    )
    assert (ROOT / module.replace(".", "/") / "__main__.py").exists()
