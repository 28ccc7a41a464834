"""The audit log: whole whoever writes it, and a change of it is found."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import pytest
from fastapi import Depends

from libs.access.acts import GENESIS, Act, chained
from libs.access.audit_log import AuditLog
from libs.catalogdb.access.audit import append_acts, publish_acts, read_audit
from libs.catalogdb.log.log import read_log
from libs.errors import ForbiddenError
from libs.events.access.acts import ActRecorded
from libs.events.codec import decode
from libs.events.topics import AUDIT
from libs.rest.auth import Caller, Role, Tokens, digest_of, require
from libs.rest.client import RestClient
from libs.rest.server import create_app, serving
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry
from services.catalog.access.audit_endpoints import add_audit_routes
from services.cli.__main__ import main
from tests.support.catalog import CatalogSite

ACT = Act(
    at=datetime(2026, 11, 22, 10, tzinfo=UTC),
    service="catalog",
    token="desk",
    roles=("delete", "reader"),
    address="10.0.0.7",
    tenant="acme",
    method="POST",
    route="/v1/r",
    target="/v1/r?x=1",
    status=200,
)
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def url(site: CatalogSite) -> Iterator[str]:
    entries = [
        {"sha256": digest_of(name), "name": name, "tenant": "*", "roles": [name]}
        for name in ("admin", "delete", "reader")
    ]
    settings, auditor = ServiceSettings(), AuditLog(site.catalog, "catalog")
    tokens = Tokens(json.dumps(entries))
    app = create_app("test", settings, Health(), new_registry(), tokens, auditor=auditor)
    add_audit_routes(app, site.catalog)

    @app.post("/v1/collection/steps")
    def step(_: Annotated[Caller, Depends(require(Role.DELETE))]) -> str:
        return "done"

    with serving(app, settings) as running:
        links = {"coordinator": running, "catalog": running}
        app.add_api_route("/v1", lambda: links)
        yield running
    auditor.close()


@pytest.fixture
def command(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs `backcast audit`; its exit status, and what it says."""
    monkeypatch.setenv("BACKCAST_URL", url)
    monkeypatch.setenv("BACKCAST_TOKEN", "admin")

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        status = main(("audit", *arguments))
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


def fill(site: CatalogSite, count: int) -> None:
    append_acts(site.catalog, [dataclasses.replace(ACT, target=f"/{n}") for n in range(count)])


def test_who_did_what_is_recorded_before_it_is_answered(site: CatalogSite, url: str) -> None:
    RestClient(url, "delete").post("/v1/collection/steps")
    with pytest.raises(ForbiddenError):
        RestClient(url, "reader").post("/v1/collection/steps")
    with pytest.raises(ForbiddenError):
        RestClient(url, "delete").get("/v1/audit")
    records = RestClient(url, "admin").get("/v1/audit")["records"]
    assert [(one["token"], one["target"], one["status"]) for one in records] == [
        ("delete", "/v1/collection/steps", 200),
        ("reader", "/v1/collection/steps", 403),
        ("delete", "/v1/audit", 403),
    ]
    assert records[0]["address"] == "127.0.0.1"
    assert records[0]["roles"] == ["delete", "reader"]
    assert "admin" not in {one["token"] for one in records}  # who only looks is not in it


def test_services_that_write_at_once_make_one_chain(site: CatalogSite) -> None:
    catalogs = [site.catalog, site.coordinator, site.restore]

    def write(number: int) -> None:
        acts = [dataclasses.replace(ACT, target=f"/{number}/{n}") for n in range(1 + number % 3)]
        append_acts(catalogs[number % 3], acts)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(write, range(60)))
    records = read_audit(site.restore, 0, 1000)
    assert len(records) == 120
    digest = GENESIS
    for number, record in enumerate(records, start=1):
        assert record == chained(digest, number, record.act)
        digest = record.digest


def test_an_export_is_what_the_log_says_and_both_are_verified(
    site: CatalogSite, command: Command, tmp_path: Path
) -> None:
    assert command("verify")[0] == 0
    fill(site, 1003)
    status, text = command("export")
    kept = tmp_path / "kept.jsonl"
    kept.write_text(text)
    assert (status, len(text.splitlines())) == (0, 1003)
    fill(site, 2)
    status, text = command("verify", str(kept))
    assert (status, "1005 records fit" in text) == (0, True)
    status, text = command("list", "--last", "3")
    assert [line.split()[0] for line in text.splitlines()] == ["NUMBER", "1003", "1004", "1005"]


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE audit SET token = 'somebody' WHERE number = 3", "audit record 3: does not fit"),
        ("UPDATE audit SET status = 403 WHERE number = 3", "audit record 3: does not fit"),
        ("DELETE FROM audit WHERE number = 3", "audit record 3: does not fit"),
        ("DELETE FROM audit WHERE number = 1", "audit record 1: does not fit"),
        ("DELETE FROM audit WHERE number = 5", "the catalog's log ends at 4"),
    ],
)
def test_a_log_that_was_changed_is_found(
    site: CatalogSite, command: Command, tmp_path: Path, sql: str, said: str
) -> None:
    fill(site, 5)
    kept = tmp_path / "kept.jsonl"
    kept.write_text(command("export")[1])
    site.sql(sql)
    status, text = command("verify", str(kept))
    assert (status, said in text) == (6, True), text


def test_a_log_that_was_written_anew_does_not_fit_an_export(
    site: CatalogSite, command: Command, tmp_path: Path
) -> None:
    fill(site, 5)
    kept = tmp_path / "kept.jsonl"
    kept.write_text(command("export", "--after", "2")[1])
    site.sql("DELETE FROM audit WHERE number >= 3")
    fill(site, 3)  # what an owner of the database can do so that the chain is whole
    assert command("verify")[0] == 0
    status, text = command("verify", str(kept))
    assert (status, "audit record 3: is another one" in text) == (6, True)


def test_a_changed_export_is_found(site: CatalogSite, command: Command, tmp_path: Path) -> None:
    fill(site, 5)
    kept = tmp_path / "kept.jsonl"
    kept.write_text(command("export")[1].replace('"/3"', '"/7"'))
    status, text = command("verify", str(kept))
    assert (status, "record 4 does not fit" in text) == (6, True)
    kept.write_text("no JSON\n")
    assert command("verify", str(kept))[0] == 2


def test_records_become_events_once_and_in_order(site: CatalogSite) -> None:
    fill(site, 5)
    assert [publish_acts(site.catalog, 3) for _ in range(3)] == [3, 2, 0]
    fill(site, 1)
    assert publish_acts(site.catalog, 3) == 1
    logged = read_log(site.catalog, AUDIT, 0, 100)
    events = [decode(one.envelope.type, one.envelope.version, one.value) for one in logged]
    assert {one.envelope.tenant for one in logged} == {"*"}  # no tenant's reader sees them
    records = read_audit(site.catalog, 0, 100)
    for event, record in zip(events, records, strict=True):
        assert isinstance(event, ActRecorded)
        assert (event.number, event.digest) == (record.number, record.digest)
        assert (event.token, event.target) == (record.act.token, record.act.target)
