"""A conductor says whom a quiet session waits for, and nobody of one that makes progress."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest

from libs.catalogdb.protected import Node
from libs.catalogdb.sessions.session import read_session
from libs.errors import UnavailableError
from libs.keys.nodes import NodeKey
from services.change_capture.coordinator.agents import Agents
from services.change_capture.coordinator.nodes.addresses import AgentNetworks
from tests.support.catalog import BOOT, TENANT, CatalogSite, open_on, protect
from tests.support.conducting import conductor_of

AGENTS = Agents(NodeKey("k" * 64), AgentNetworks(["127.0.0.0/8"]).admit)


def test_whom_a_session_waits_for_is_said_after_some_seconds(site: CatalogSite) -> None:
    protect(site, "vm")
    view = open_on(site, "vm", deadline_seconds=60)
    with ThreadPoolExecutor(1) as threads:
        no_vault: Any = None
        conductor = conductor_of(site.coordinator, no_vault, AGENTS, threads, deadline_seconds=60)
        assert conductor.awaited(view) == []
        site.sql("UPDATE session SET deadline = deadline - interval '6 seconds'")
        quiet = read_session(site.coordinator, view.session)
        (one,) = conductor.awaited(quiet)
        assert conductor.is_silent(one.capture)
        assert one.describe(is_agent_silent=True) == (
            "the agent of node node-1, which captures volume vm"
        )


def test_an_agent_that_is_gone_is_named_by_its_node_and_not_by_a_number() -> None:
    nobody = Node("node-7", "http://127.0.0.1:9", "127.0.0.1:9", BOOT, UUID(int=1))
    with pytest.raises(UnavailableError, match="the agent of node node-7 does not answer") as info:
        AGENTS.probe(nobody, TENANT, "/dev/vm")
    assert "connection refused" in str(info.value)
    assert "Errno" not in str(info.value)
