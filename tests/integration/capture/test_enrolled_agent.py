"""An agent that enrols by an invitation, as a process of its own beside the others."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local.services import ServiceProcess
from libs.errors import ConflictError
from libs.keys.nodes import NodeCredential
from libs.rest.client import RestClient
from tests.support.running import TENANT, RunningSite, eventually

NODE = "enrolled"


@dataclass(frozen=True)
class Enrolling:
    """A third agent of the cluster, whose ports and state are its own."""

    site: RunningSite
    folder: Path
    process: ServiceProcess

    @property
    def people(self) -> RestClient:
        return self.site.coordinator

    def start(self, invitation: str, name: str = NODE) -> None:
        """Start the agent with an invitation, and no credential by file."""
        file = self.folder / "secrets" / "invitation"  # what lies beside it is closed to tenants
        file.parent.mkdir(exist_ok=True)
        file.write_text(invitation)
        environ = dict(self.process.environ)
        environ.pop("BACKCAST_AGENT_CREDENTIAL_FILE", None)
        self.process.environ = environ | {
            "BACKCAST_AGENT_NODE": name,
            "BACKCAST_AGENT_INVITATION_FILE": str(file),
            "BACKCAST_AGENT_STATE_FOLDER": str(self.folder / name),
            "BACKCAST_AGENT_ROOTS": f"{TENANT}={self.folder}/volumes",
        }
        self.process.spawn()

    def node(self, name: str = NODE) -> Mapping[str, object]:
        found: Mapping[str, object] = self.people.get(f"/v1/nodes/{name}")
        return found

    def invite(self, name: str | None) -> str:
        return str(self.people.post("/v1/invitations", {"node": name})["invitation"])


@pytest.fixture
def enrolling(site: RunningSite, tmp_path: Path) -> Iterator[Enrolling]:
    site.server("agent").process.stop()  # its place is taken; it comes back by its own credential
    (tmp_path / "volumes").mkdir()
    made = Enrolling(site, tmp_path, site.service("agent"))
    yield made
    made.process.process.stop()
    for node in made.people.get("/v1/nodes"):  # others name no node where there is only one
        if node["name"] in (NODE, "copied"):
            made.people.post(f"/v1/nodes/{node['name']}/forget")
    site.start("agent")


def test_an_agent_enrols_once_and_is_the_same_node_after_a_restart(enrolling: Enrolling) -> None:
    invitation = enrolling.invite(None)
    enrolling.start(invitation)
    eventually("the agent is ready", enrolling.process.is_ready)
    first = enrolling.node()
    assert (first["state"], first["version"]) == ("heard", "0.1.0")
    assert first["roots"] == [f"{TENANT}={enrolling.folder}/volumes"]
    volume = enrolling.folder / "volumes" / "disk"
    volume.write_bytes(b"x" * 300_000)
    body = {"name": "enrolled-disk", "path": str(volume), "node": NODE}
    enrolling.people.post(f"/v1/tenants/{TENANT}/volumes", body)
    assert enrolling.site.take("enrolled-disk")["state"] == "sealed"
    enrolling.process.process.stop()
    enrolling.start(invitation)  # it is spent, and nobody asks
    eventually("the agent is ready", enrolling.process.is_ready)
    assert enrolling.node()["boot"] != first["boot"]
    assert enrolling.site.take("enrolled-disk")["state"] == "sealed"


def test_a_spent_invitation_ends_the_agent_and_its_log_says_why(enrolling: Enrolling) -> None:
    enrolling.start(enrolling.invite("other"), "stranger")
    process = enrolling.process.process
    eventually("the agent has ended", lambda: process.pid is None)
    assert "it is for another node" in process.log_file.read_text()
    assert all(one["name"] != "stranger" for one in enrolling.people.get("/v1/nodes"))


def test_a_copied_state_folder_does_not_move_a_node_that_answers(enrolling: Enrolling) -> None:
    enrolling.start(enrolling.invite("copied"), "copied")
    eventually("the agent is ready", enrolling.process.is_ready)
    thief = RestClient(
        f"http://127.0.0.1:{enrolling.site.cluster.home.port('coordinator-nodes')}",
        _credential(enrolling.folder / "copied").announce_token,
    )
    node = enrolling.node("copied")
    with pytest.raises(ConflictError, match="still answers"):
        thief.post(
            "/v1/nodes/copied/announcement",
            {
                "rpc_url": "http://127.0.0.1:1",
                "span_address": node["span_address"],
                "boot": node["boot"],
            },
        )


def _credential(state: Path) -> NodeCredential:
    return NodeCredential.parse((state / "credential").read_text())
