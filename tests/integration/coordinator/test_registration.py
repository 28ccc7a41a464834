"""Who may be which node, tried as somebody with a stolen credential or a captured invitation.

Coordinator and agents are real and speak HTTP; what they know is in a real catalog.
"""

import re
from uuid import uuid4

import pytest
from fastapi.routing import APIRoute

from libs.catalogdb.protected import find_node
from libs.errors import (
    BadInputError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from libs.rest.client import RestClient
from tests.integration.coordinator.registering import ADMIN, Site


def test_an_agent_that_announces_itself_is_heard(coordinator: Site) -> None:
    agent = coordinator.agent("node-a")
    coordinator.announce(agent)
    coordinator.announce(agent)
    shown = coordinator.shown("node-a")
    assert (shown["state"], shown["rpc_url"], shown["version"]) == ("heard", agent.url, "0.1.0")
    assert shown["roots"] == ["acme=/srv/acme"]
    assert [one["name"] for one in coordinator.admin.get("/v1/nodes")] == ["node-a"]


def test_a_stolen_credential_announces_no_other_node(coordinator: Site) -> None:
    thief, victim = coordinator.agent("node-a"), coordinator.agent("node-b")
    coordinator.announce(victim)
    with pytest.raises(ForbiddenError, match="not good for node node-b"):
        coordinator.announce(thief, node="node-b")
    with pytest.raises(ForbiddenError, match="not good for node node-c"):
        coordinator.announce(thief, node="node-c")
    assert coordinator.shown("node-b")["rpc_url"] == victim.url


def test_a_credential_of_a_node_is_good_for_nothing_that_people_do(coordinator: Site) -> None:
    agent = coordinator.agent("node-a")
    coordinator.announce(agent)
    for token in (agent.credential.announce_token, agent.credential.order_token):
        thief = RestClient(coordinator.url, token)
        tried = 0
        for route in coordinator.app.routes:
            if isinstance(route, APIRoute) and route.path.startswith("/v1"):
                tried += 1
                path = re.sub(r"{\w+}", "node-a", route.path)
                with pytest.raises(UnauthenticatedError):
                    _ = thief.get(path) if "GET" in route.methods else thief.post(path, {})
        assert tried > 6


def test_a_token_of_a_person_is_good_for_nothing_that_agents_do(coordinator: Site) -> None:
    agent = coordinator.agent("node-a")
    person = RestClient(coordinator.agents_url, ADMIN)
    for path, body in (
        ("/v1/nodes/node-a/announcement", agent.announcement),
        ("/v1/nodes/node-a/report", {"boot": str(uuid4()), "captures": []}),
        ("/v1/enrolments", {"node": "node-a", "credential": str(uuid4())}),
    ):
        with pytest.raises(UnauthenticatedError):
            person.post(path, body)


def test_what_the_coordinator_shows_to_one_node_is_refused_by_another(coordinator: Site) -> None:
    a, b = coordinator.agent("node-a"), coordinator.agent("node-b")
    assert RestClient(a.url, a.credential.order_token).get("/v1/node")["name"] == "node-a"
    for token in (a.credential.order_token, a.credential.announce_token, ADMIN):
        with pytest.raises(UnauthenticatedError):
            RestClient(b.url, token).get("/v1/node")


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "http://169.254.169.254", "http://u:p@127.0.0.1", "http://127.0.0.1/x"],
)
def test_no_agent_is_at_such_an_address(coordinator: Site, url: str) -> None:
    agent = coordinator.agent("node-a")
    with pytest.raises(BadInputError, match="rpc_url"):
        coordinator.announce(agent, rpc_url=url)
    with pytest.raises(BadInputError, match="span_address"):
        coordinator.announce(agent, span_address="169.254.169.254:80")
    with pytest.raises(NotFoundError):
        coordinator.shown("node-a")


def test_an_address_at_which_another_agent_answers_is_not_recorded(coordinator: Site) -> None:
    agent, victim = coordinator.agent("node-a"), coordinator.agent("node-b")
    coordinator.announce(agent)
    other = coordinator.again(agent)
    agent.end()
    for wrong in (
        {"rpc_url": victim.url},
        {"rpc_url": coordinator.url},
        {"span_address": victim.announcement["span_address"]},
        {"boot": str(uuid4())},
    ):
        with pytest.raises(UnavailableError):
            coordinator.announce(other, **wrong)
    assert find_node(coordinator.site.coordinator, "node-a").rpc_url == agent.url


def test_a_node_is_not_moved_while_its_boot_answers(coordinator: Site) -> None:
    agent = coordinator.agent("node-a")
    coordinator.announce(agent)
    thief = coordinator.again(agent)
    with pytest.raises(ConflictError, match=f"boot {agent.announcement['boot']}"):
        coordinator.announce(thief)
    with pytest.raises(ConflictError, match="still answers"):  # nor under the boot that is known
        coordinator.announce(thief, boot=agent.announcement["boot"])
    assert coordinator.shown("node-a")["rpc_url"] == agent.url
    agent.end()
    coordinator.announce(thief)
    assert coordinator.shown("node-a")["rpc_url"] == thief.url


def test_an_invitation_is_good_once_and_for_its_node(coordinator: Site) -> None:
    invitation, first = coordinator.invite("node-a"), uuid4()
    with pytest.raises(ForbiddenError, match="another node"):
        coordinator.enrol(invitation, "node-b", uuid4())
    credential = coordinator.enrol(invitation, "node-a", first)
    assert coordinator.shown("node-a")["state"] == "expected"
    assert coordinator.enrol(invitation, "node-a", first) == credential  # the answer was lost
    with pytest.raises(ForbiddenError, match="it was used"):
        coordinator.enrol(invitation, "node-a", uuid4())
    coordinator.announce(coordinator.agent("node-a", first))
    with pytest.raises(ForbiddenError, match="it was used"):
        coordinator.enrol(invitation, "node-a", first)


def test_an_invitation_for_new_nodes_takes_over_none_that_was(coordinator: Site) -> None:
    old = coordinator.agent("node-a")
    coordinator.announce(old)
    invitation = coordinator.invite(count=2)
    with pytest.raises(ConflictError, match="still answers"):
        coordinator.enrol(invitation, "node-a", uuid4())
    old.end()
    with pytest.raises(ConflictError, match="is or was a node's"):
        coordinator.enrol(invitation, "node-a", uuid4())
    coordinator.admin.post("/v1/nodes/node-a/forget")
    with pytest.raises(ConflictError, match="is or was a node's"):
        coordinator.enrol(invitation, "node-a", uuid4())
    coordinator.enrol(invitation, "node-b", uuid4())  # refusals have spent nothing
    coordinator.enrol(invitation, "node-c", uuid4())
    with pytest.raises(ForbiddenError, match="it was used"):
        coordinator.enrol(invitation, "node-d", uuid4())


def test_a_newer_invitation_for_a_name_ends_the_older_one(coordinator: Site) -> None:
    older, newer = coordinator.invite("node-a"), coordinator.invite("node-a")
    with pytest.raises(ForbiddenError, match="it was used"):
        coordinator.enrol(older, "node-a", uuid4())
    coordinator.enrol(newer, "node-a", uuid4())


def test_an_invitation_ends_with_its_time(coordinator: Site) -> None:
    invitation = coordinator.invite("node-a")
    coordinator.site.sql("UPDATE invitation SET expires_at = now()")
    with pytest.raises(ForbiddenError, match="its time is over"):
        coordinator.enrol(invitation, "node-a", uuid4())


def test_a_node_that_answers_gets_no_other_credential(coordinator: Site) -> None:
    agent = coordinator.agent("node-a")
    coordinator.announce(agent)
    captured = coordinator.invite("node-a")
    with pytest.raises(ConflictError, match="still answers"):
        coordinator.enrol(captured, "node-a", uuid4())
    coordinator.announce(agent)
    agent.end()
    fresh = coordinator.agent("node-a", coordinator.enrol(captured, "node-a", uuid4()).credential)
    coordinator.announce(fresh)
    with pytest.raises(UnauthenticatedError, match="another credential counts"):
        coordinator.announce(coordinator.again(agent))


def test_a_credential_that_only_the_key_made_is_claimed_once(coordinator: Site) -> None:
    coordinator.announce(coordinator.agent("node-a"))
    with pytest.raises(UnauthenticatedError, match="another credential counts"):
        coordinator.announce(coordinator.agent("node-a"))
