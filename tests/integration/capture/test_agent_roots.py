"""What tenants can make a real agent read: what its configuration opens to them alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.errors import SourceError
from libs.ids import uuid7
from tests.support.running import Answer, RunningSite, eventually

ACME, OTHER = "acme", "other"


class Tenants:
    """A node with a folder for each of two tenants, and an agent that knows whose they are."""

    def __init__(self, site: RunningSite, folder: Path) -> None:
        self.site = site
        self.folder = folder
        for tenant in (ACME, OTHER):
            (folder / tenant).mkdir()
            (folder / tenant / "disk").write_bytes(tenant.encode() * 100_000)

    def run_agent(self, roots: str) -> None:
        """Run the agent with these roots."""
        self.site.server("agent").process.stop()
        agent = self.site.service("agent")
        agent.environ = {**agent.environ, "BACKCAST_AGENT_ROOTS": roots}
        agent.spawn()
        eventually("the agent is ready", agent.is_ready)

    def add(self, tenant: str, path: Path, freeze: str | None = None) -> None:
        body = {"name": path.name, "path": str(path), "freeze": freeze}
        self.site.coordinator.post(f"/v1/tenants/{tenant}/volumes", body)

    def refusal(self, tenant: str, path: Path) -> str:
        """What a tenant's operator hears, without the path."""
        with pytest.raises(SourceError) as refused:
            self.add(tenant, path)
        return str(refused.value).replace(str(path), "PATH")

    def take(self, tenant: str, name: str) -> tuple[str, str | None]:
        """State and code of a snapshot."""
        body = {"session": str(uuid7()), "name": name}
        begun = self.site.coordinator.post(f"/v1/tenants/{tenant}/snapshots", body)
        where = f"/v1/tenants/{tenant}/sessions/{begun['session']}"
        answers: list[Answer] = []

        def has_ended() -> bool:
            answers.append(self.site.coordinator.get(where, {"wait_seconds": 5}))
            return bool(answers[-1]["state"] != "open")

        eventually("the session has ended", has_ended)
        return answers[-1]["state"], answers[-1]["code"]


@pytest.fixture
def tenants(site: RunningSite, tmp_path: Path) -> Iterator[Tenants]:
    yield Tenants(site, tmp_path)
    site.server("agent").process.stop()
    site.start("agent")


def test_an_operator_of_any_tenant_gets_its_own_roots_and_hears_nothing_of_others(
    tenants: Tenants,
) -> None:
    folder, home = tenants.folder, tenants.site.cluster.home.folder
    tenants.run_agent(f"{ACME}={folder}/{ACME},{OTHER}={folder}/{OTHER},{OTHER}={home}")
    missing = tenants.refusal(ACME, folder / ACME / "nothing")
    (folder / ACME / "link").symlink_to(folder / OTHER / "disk")
    for path in (
        folder / OTHER / "disk",
        folder / ACME / "link",
        folder / ACME / ".." / OTHER / "disk",
        Path("/etc/shadow"),
        Path("/proc/self/environ"),
        home / "secrets" / "kek",
    ):
        assert tenants.refusal(ACME, path) == missing
    for path in (
        home / "secrets" / "kek",
        home / "secrets" / "tokens.json",
        home / "data" / "agent",
    ):
        assert tenants.refusal(OTHER, path) == missing.replace(ACME, OTHER)
    tenants.add(ACME, folder / ACME / "disk")
    assert tenants.take(ACME, "disk") == ("sealed", None)


def test_what_is_closed_to_a_tenant_again_is_captured_no_more(tenants: Tenants) -> None:
    folder = tenants.folder
    one, two = folder / ACME / "one", folder / ACME / "two"
    for path in (one, two):
        path.write_bytes(b"x" * 100_000)
    tenants.run_agent(f"*={folder}")
    tenants.add(ACME, one)
    tenants.site.coordinator.post(
        f"/v1/tenants/{ACME}/volumes", {"name": "two", "path": str(two), "group": "pair"}
    )
    tenants.site.coordinator.post(
        f"/v1/tenants/{ACME}/volumes",
        {"name": "three", "path": str(one), "group": "pair", "again": True},
    )
    assert tenants.take(ACME, "one") == ("sealed", None)
    assert tenants.take(ACME, "pair") == ("sealed", None)
    tenants.run_agent(f"{OTHER}={folder}")
    assert tenants.take(ACME, "one") == ("rejected", "source")
    assert tenants.take(ACME, "pair") == ("rejected", "source")  # by the barrier's way
