"""deploy/Dockerfile and deploy/compose.yaml, as far as they can be checked without Docker."""

import dataclasses
import importlib
import json
import re
import tomllib
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
CHANGING_KEK = yaml.safe_load((ROOT / "deploy" / "compose.changing-kek.yaml").read_text())
WITH_FILTER = on_top(COMPOSE, yaml.safe_load((ROOT / "deploy" / "compose.filter.yaml").read_text()))
FILES = {
    " with a volume filter": WITH_FILTER,
    "": COMPOSE,
    " with a second store": WITH_SECOND_STORE,
    " while the KEK is changed": on_top(COMPOSE, CHANGING_KEK),
}
#: Service, and what is on top of the first file → its definition.
OURS = {
    f"{name}{what}": made["services"][name]
    for what, made in FILES.items()
    for name in sorted(SETTINGS.keys() & made["services"].keys())
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
    assert given.keys() == SETTINGS.keys() - {"coordinator", "agent", "filter"}
    assert set(map(frozenset, given.values())) == {
        frozenset({"ENDPOINT", "BUCKET", "ACCESS_KEY_FILE", "SECRET_KEY_FILE"})
    }


def test_each_service_that_is_given_the_kek_accepts_the_previous_one_while_it_is_changed() -> None:
    with_kek = {
        name
        for name, module in SETTINGS.items()
        if "previous_kek"
        in {field.name for field in dataclasses.fields(importlib.import_module(module).Settings)}
    }
    assert with_kek == {"catalog", "coordinator", "chunker", "restore"}
    assert CHANGING_KEK["services"].keys() == with_kek


def test_nothing_assumes_localhost() -> None:
    for service in WITH_SECOND_STORE["services"].values():
        assert not re.search(r"localhost|127\.0\.0\.1", json.dumps(service))


def test_every_image_names_its_version_and_every_server_its_digest() -> None:
    for name, service in WITH_SECOND_STORE["services"].items():
        built_here = "build" in service
        digest = "" if built_here else "@sha256:[0-9a-f]{64}"
        assert re.search(rf":[0-9][\w.-]+{digest}$", service["image"]), name
    assert (
        WITH_SECOND_STORE["services"]["s3"]["image"]
        == (WITH_SECOND_STORE["services"]["s3-second"]["image"])
    )


def test_the_base_of_the_images_names_its_version() -> None:
    (base,) = re.findall(r"^ARG BASE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert re.search(r":[0-9][\w.-]+@sha256:[0-9a-f]{64}$", base)
    origins = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE))
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", DOCKERFILE, re.MULTILINE))
    assert origins - stages == {"${BASE}"}


def test_nothing_is_installed_in_an_image_without_a_hash() -> None:
    installed = re.findall(r"(?:pip install|uv sync)[^&\n]*", DOCKERFILE)
    assert len(installed) == 2
    assert all("--require-hashes" in one or "--frozen" in one for one in installed)
    assert "!deploy/uv.txt" in (ROOT / ".dockerignore").read_text().splitlines()
    uv = (ROOT / "deploy" / "uv.txt").read_text()
    assert len(re.findall(r"^uv==\S+", uv, re.MULTILINE)) == 1
    installed = re.findall(r"pip install.*|uv sync.*", (ROOT / "Makefile").read_text())
    assert len(installed) == 2
    assert all("--require-hashes" in one or "--frozen" in one for one in installed)
    assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", uv)) == 2
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    for package in lock["package"]:
        files = [*package.get("wheels", ()), *filter(None, [package.get("sdist")])]
        assert files or package["name"] == "backcast"
        assert all(file["hash"].startswith("sha256:") for file in files), package["name"]


def test_every_secret_of_compose_is_made(tmp_path) -> None:
    made = credentials.make(tmp_path)
    for secret in WITH_SECOND_STORE["secrets"].values():
        assert Path(secret["file"]).name in made
    for compose in FILES.values():
        for service in compose["services"].values():
            given = {
                secret["source"] if isinstance(secret, dict) else secret
                for secret in service.get("secrets", ())
            }
            assert given <= compose["secrets"].keys()


@pytest.mark.parametrize("server", ["s3", "s3-second"])
def test_a_filer_asks_for_tokens(server: str, tmp_path) -> None:
    (mounted,) = (
        secret
        for secret in WITH_SECOND_STORE["services"][server]["secrets"]
        if isinstance(secret, dict)
    )
    assert mounted["target"] == "/etc/seaweedfs/security.toml"
    credentials.make(tmp_path)
    security = tomllib.loads((tmp_path / mounted["source"]).read_text())
    jwt = security["jwt"]
    keys = {jwt["signing"]["key"], jwt["filer_signing"]["key"], jwt["filer_signing"]["read"]["key"]}
    assert len(keys) == 3
    assert all(len(key) >= 32 for key in keys)


def test_kafka_asks_everybody_for_a_password() -> None:
    text = (ROOT / "deploy" / "compose" / "kafka.properties").read_text()
    kafka = dict(
        line.split("=", 1)
        for line in text.replace("\\\n", "").splitlines()
        if line and not line.startswith("#")
    )
    given = COMPOSE["services"]["kafka"]["secrets"]
    named = set(re.findall(r"\$\{secrets:/run/secrets:([\w-]+)\}", text))
    assert named == set(given)
    listeners = dict(one.split("://") for one in kafka["listeners"].split(","))
    protocols = dict(one.split(":") for one in kafka["listener.security.protocol.map"].split(","))
    assert protocols == dict.fromkeys(listeners, "SASL_PLAINTEXT")
    for listener in listeners:
        prefix = f"listener.name.{listener.lower()}."
        mechanism = kafka[f"{prefix}sasl.enabled.mechanisms"]
        assert "required" in kafka[f"{prefix}{mechanism.lower()}.sasl.jaas.config"]
    command = "".join(COMPOSE["services"]["kafka"]["command"])
    assert "SCRAM-SHA-512=[name=backcast,password=$$(cat /run/secrets/kafka-password)]" in command
    clients = [name for name in OURS if "KAFKA_BOOTSTRAP" in str(OURS[name]["environment"])]
    assert clients
    for name in clients:
        variables = {
            key.partition("_KAFKA_")[2]: value
            for key, value in OURS[name]["environment"].items()
            if "_KAFKA_" in key
        }
        assert variables == {
            "BOOTSTRAP": "kafka:9092",
            "SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "SASL_USERNAME": "backcast",
            "SASL_PASSWORD_FILE": "/run/secrets/kafka-password",
        }


def test_nothing_is_published_to_the_host() -> None:
    for made in FILES.values():
        for name, service in made["services"].items():
            assert "ports" not in service, name
            assert "network_mode" not in service, name


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


@pytest.mark.parametrize("target", [*SETTINGS, "cli"])
def test_every_target_starts_without_a_shell(target: str) -> None:
    (module,) = re.findall(
        r'^ENTRYPOINT \["python", "-m", "([\w.]+)"\]$', stage(target), re.MULTILINE
    )
    path = ROOT / module.replace(".", "/")
    file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    assert 'if __name__ == "__main__":' in file.read_text()
