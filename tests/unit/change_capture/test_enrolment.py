"""How an agent comes to its credential, whatever is lost or killed in between."""

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from fastapi import FastAPI

from libs.errors import ConfigurationError, ForbiddenError, UnavailableError
from libs.keys.nodes import NodeKey
from libs.rest.server import create_app, serving
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry
from libs.runtime.settings import load
from libs.runtime.signals import Stop
from services.change_capture import enrolment
from services.change_capture.agent.settings import Settings
from services.change_capture.enrolment import credential_of
from services.change_capture.rpc import EnrolmentAnswer, EnrolmentRequest

KEY = NodeKey("k" * 64)


class Coordinator:
    """Gives credentials to whoever asks, unless it fails first."""

    def __init__(self, app: FastAPI) -> None:
        self.asked: list[UUID] = []
        self.failures: list[Exception] = []

        @app.post("/v1/enrolments")
        def enrol(request: EnrolmentRequest) -> EnrolmentAnswer:
            self.asked.append(request.credential)
            if self.failures:
                raise self.failures.pop(0)
            credential = KEY.credential(request.node, request.credential)
            return EnrolmentAnswer(credential=credential.text)


class Site:
    def __init__(self, folder: Path, url: str, coordinator: Coordinator) -> None:
        self.folder, self.url, self.coordinator = folder, url, coordinator
        self.state = folder / "state"

    def settings(self, **files: str) -> Settings:
        environ = {
            "BACKCAST_AGENT_KAFKA_BOOTSTRAP": "localhost:1",
            "BACKCAST_AGENT_NODE": "node-1",
            "BACKCAST_AGENT_COORDINATOR_URL": self.url,
            "BACKCAST_AGENT_STATE_FOLDER": str(self.state),
            "BACKCAST_AGENT_ROOTS": "acme=/srv",
        }
        for name, text in files.items():
            (self.folder / name).write_text(text)
            environ[f"BACKCAST_AGENT_{name.upper()}_FILE"] = str(self.folder / name)
        return load(Settings, "agent", environ)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(enrolment, "_AGAIN_SECONDS", 0.01)
    app = create_app("coordinator", ServiceSettings(), Health(), new_registry())
    coordinator = Coordinator(app)
    with serving(app, ServiceSettings()) as url:
        yield Site(tmp_path, url, coordinator)


def test_an_invitation_is_exchanged_once_and_the_credential_kept(site: Site) -> None:
    settings = site.settings(invitation="i")
    first = credential_of(settings, Stop())
    assert credential_of(settings, Stop()) == first
    assert [KEY.credential("node-1", asked) for asked in site.coordinator.asked] == [first]
    assert {file.name for file in site.state.iterdir()} == {"credential"}
    assert (site.state / "credential").stat().st_mode & 0o777 == 0o600


def test_a_lost_answer_is_asked_for_under_the_same_id(site: Site) -> None:
    site.coordinator.failures = [UnavailableError("lost"), UnavailableError("lost again")]
    found = credential_of(site.settings(invitation="i"), Stop())
    assert len(site.coordinator.asked) == 3
    assert set(site.coordinator.asked) == {found.credential if found else None}


def test_an_agent_that_dies_before_it_has_the_answer_asks_for_the_same_credential(
    site: Site,
) -> None:
    settings, stop = site.settings(invitation="i"), Stop()
    site.coordinator.failures = [UnavailableError("the agent is killed here")]
    stop.request()
    assert credential_of(settings, stop) is None
    assert (site.state / "credential-id").exists()
    credential_of(settings, Stop())
    first, second = site.coordinator.asked
    assert first == second


def test_an_agent_that_dies_before_it_forgets_the_id_has_its_credential(site: Site) -> None:
    settings = site.settings(invitation="i")
    first = credential_of(settings, Stop())
    (site.state / "credential-id").write_text(uuid4().hex)
    (site.state / "credential.unfinished").write_text("half")
    assert credential_of(settings, Stop()) == first


def test_a_refused_invitation_ends_the_agent(site: Site) -> None:
    site.coordinator.failures = [ForbiddenError("invitation: it was used")]
    with pytest.raises(ConfigurationError, match=r"does not enrol it: .*it was used"):
        credential_of(site.settings(invitation="i"), Stop())


def test_a_credential_by_file_needs_nobody(site: Site) -> None:
    given = KEY.credential("node-1", uuid4())
    assert credential_of(site.settings(credential=given.text, invitation="i"), Stop()) == given
    assert site.coordinator.asked == []


def test_the_credential_of_another_node_ends_the_agent(site: Site) -> None:
    given = KEY.credential("node-2", uuid4())
    with pytest.raises(ConfigurationError, match="that of node node-2"):
        credential_of(site.settings(credential=given.text), Stop())


def test_an_agent_without_either_says_what_to_do(site: Site) -> None:
    with pytest.raises(ConfigurationError, match="backcast node invite node-1"):
        credential_of(site.settings(), Stop())


def test_a_settings_file_shows_no_secret(site: Site) -> None:
    given = KEY.credential("node-1", uuid4())
    settings = site.settings(credential=given.text)
    assert given.secret.hex() not in json.dumps(repr(settings))
