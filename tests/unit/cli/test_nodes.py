"""``backcast node``: what it asks for, prints, and says before it happens."""

from typing import Any

from tests.unit.cli.conftest import Backcast
from tests.unit.cli.scripted_service import Script, ScriptedService

NODE = {
    "name": "node-a",
    "state": "silent",
    "heard_at": "2026-11-22T10:00:00.25Z",
    "rpc_url": "http://10.1.2.3:8080",
    "span_address": "10.1.2.3:8081",
    "boot": "0192-boot",
    "version": "0.1.0",
    "source_count": 1,
}
SOURCE = {"tenant": "acme", "volume": "vm", "group": "g", "path": "/srv/vm", "lead": True}
EXPECTED = NODE | {
    "name": "node-b",
    "state": "expected",
    "heard_at": None,
    "rpc_url": "",
    "version": "",
    "source_count": 0,
}


def details(**other: Any) -> dict[str, Any]:
    return NODE | {"sources": [SOURCE], "roots": ["acme=/srv"]} | other


def test_a_list_says_since_when_a_node_is_silent(backcast: Backcast, script: Script) -> None:
    script["GET", "/v1/nodes"] = [[NODE, EXPECTED]]
    heading, silent, expected = backcast("node", "list").out.splitlines()
    assert heading.split()[0] == "NODE"
    assert "silent since 2026-11-22T10:00:01Z" in silent
    assert expected.split()[:4] == ["node-b", "expected", "never", "-"]


def test_a_node_is_shown_with_its_roots_and_volumes(backcast: Backcast, script: Script) -> None:
    script["GET", "/v1/nodes/node-a"] = [details(), details(roots=None)]
    shown = backcast("node", "show", "node-a").out
    for text in ("acme=/srv", "10.1.2.3:8081", "0192-boot", "/srv/vm"):
        assert text in shown
    assert "its agent does not answer" in backcast("node", "show", "node-a").out


def test_an_invitation_alone_is_on_standard_output(
    backcast: Backcast, script: Script, service: ScriptedService
) -> None:
    made = {"invitation": "i~1", "node": None, "count": 3, "expires_at": NODE["heard_at"]}
    script["POST", "/v1/invitations"] = [made, made | {"node": "node-a", "count": 1}]
    ran = backcast("node", "invite", "--count", "3", "--valid", "7d")
    assert ran.out == "i~1\n"
    assert "3 new nodes" in ran.err
    assert "node node-a, once" in backcast("node", "invite", "node-a").err
    assert service.bodies("POST", "/v1/invitations") == [
        {"node": None, "count": 3, "valid_seconds": 604_800},
        {"node": "node-a", "count": 1, "valid_seconds": 86_400},
    ]
    assert backcast("node", "invite", "--valid", "soon").status == 2


def test_forgetting_says_what_becomes_of_the_volumes(
    backcast: Backcast, script: Script, service: ScriptedService
) -> None:
    script["GET", "/v1/nodes/node-a"] = [details(), details(), details(sources=[])]
    script["POST", "/v1/nodes/node-a/forget"] = [{"name": "node-a", "sources": [SOURCE]}]
    dry = backcast("node", "forget", "node-a", "--dry-run")
    assert "node node-a has acme/vm: their snapshots stay" in dry.err
    assert service.bodies("POST", "/v1/nodes/node-a/forget") == []
    ran = backcast("node", "forget", "node-a")
    assert "node node-a has acme/vm" in ran.err
    assert "backcast node invite node-a" in ran.out
    assert len(service.bodies("POST", "/v1/nodes/node-a/forget")) == 1
    assert "no volume is on it" in backcast("node", "forget", "node-a", "--dry-run").err
