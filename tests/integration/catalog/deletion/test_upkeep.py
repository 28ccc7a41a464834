"""`backcast gc` on Postgres and a bucket: a dry run says what a run frees, and changes nothing."""

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from libs.catalogdb.recovery.dump import dump
from libs.catalogdb.sessions.session import reject_session
from libs.copies.stores import Stores
from libs.errors import ForbiddenError
from libs.ids import new_generation, uuid7
from libs.rest.auth import Tokens, digest_of
from libs.rest.client import RestClient
from libs.rest.server import create_app, serving
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.loops import Loop, start_loops
from libs.runtime.metrics import new_registry
from libs.runtime.signals import Stop
from libs.store.layout import ManifestName, manifest_object, pack_object
from services.catalog.deletion.collection_endpoints import add_collection_routes
from services.catalog.deletion.collector import Collector
from services.catalog.deletion.passes import Collection
from services.catalog.deletion.sweeper import Sweeper, SweepPolicy, SweepTally
from services.catalog.deletion.upkeep import Upkeep
from services.catalog.deletion.upkeep_endpoints import add_upkeep_routes
from services.cli.__main__ import main
from tests.integration.catalog.protected import TENANT, Protected
from tests.support.catalog import CatalogSite, Worker, open_on

SECONDS_MAX = 20
#: token → (tenant, role)
TOKENS = {"ops": ("*", "admin"), "reader": (TENANT, "reader")}
Gc = Callable[..., dict[str, Any]]


@pytest.fixture
def protected(in_bucket: Protected) -> Protected:
    in_bucket.protect("disk", "other")
    return in_bucket


@pytest.fixture
def url(protected: Protected) -> Iterator[str]:
    """The catalog service, with a loop of upkeep that has made its first pass over nothing."""
    entries = [
        {"sha256": digest_of(token), "tenant": tenant, "role": role, "name": token}
        for token, (tenant, role) in TOKENS.items()
    ]
    settings, stop = ServiceSettings(), Stop()
    tokens = Tokens(json.dumps(entries))
    app = create_app("test", settings, Health(), new_registry(), tokens)
    catalog, store = protected.site.catalog, protected.store
    collector = Collector(
        catalog, Stores(store), protected.vault, 60, protected.checkpoints.witness
    )
    upkeep = Upkeep(Sweeper(catalog, store, SweepPolicy(0, 60)), protected.rewriter())
    add_collection_routes(app, catalog, Collection(collector.stages()))
    add_upkeep_routes(app, upkeep)
    upkeep_loop = Loop("upkeep", upkeep.round, 3600.0, wake=upkeep.wake)
    (loop,) = start_loops([upkeep_loop], Health(), stop)
    assert upkeep.ask(uuid7()).ended.wait(SECONDS_MAX)
    with serving(app, settings) as running:
        links = {"coordinator": running, "catalog": running}
        app.add_api_route("/v1", lambda: links)
        yield running
    stop.request()
    loop.join()


@pytest.fixture
def gc(url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Gc:
    """Runs the command; its one object."""
    monkeypatch.setenv("BACKCAST_URL", url)
    monkeypatch.setenv("BACKCAST_TOKEN", "ops")

    def run(*arguments: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main(("gc", "--json", *arguments)) == 0
        (line,) = capsys.readouterr().out.splitlines()
        result: dict[str, Any] = json.loads(line)
        return result

    return run


def leave_much(protected: Protected) -> None:
    """Something for each way in which space is freed."""
    site, store = protected.site, protected.store
    protected.take("disk", *range(1, 41))  # a pack that will be mostly dead
    protected.take("disk", *range(1, 5), *range(101, 137))
    protected.take("other", *range(201, 211))  # and one that nothing will need
    protected.take("other", *range(301, 311))
    assert protected.expire("disk", 1)
    assert protected.expire("other", 1)
    worker = Worker(site, open_on(site, "disk"))
    uploaded, dead = worker.claim(), worker.claim()
    store.put(pack_object(uploaded.generation), b"never registered")
    store.put(manifest(worker.view.session), b"never sealed")
    reject_session(site.chunker, "chunker", worker.view.session, "cancelled", "by hand")
    site.sql("UPDATE pack SET state = 'd' WHERE pack_no = %s", dead.pack_no)
    store.put(pack_object(dead.generation), b"late")
    store.put(pack_object(new_generation()), b"from nowhere")
    store.put(manifest(uuid7()), b"of nobody")


def manifest(session: Any) -> str:
    return manifest_object(ManifestName(TENANT, uuid4(), 7, session, "stray"))


def rows(site: CatalogSite) -> dict[str, list[str]]:
    """Every row of every table, also of work under way, which a canonical dump leaves out."""
    names = site.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {
        name: sorted(row for (row,) in site.sql(f"SELECT t::text FROM {name} t"))
        for (name,) in names
    }


def listing(protected: Protected, prefix: str = "") -> dict[str, int]:
    return {stat.key: stat.size_bytes for stat in protected.store.list(prefix)}


def test_a_dry_run_changes_nothing(protected: Protected, gc: Gc) -> None:
    leave_much(protected)
    site = protected.site
    before = listing(protected), list(dump(site.catalog)), rows(site)
    assert gc("--dry-run")["dry_run"] is True
    assert (listing(protected), list(dump(site.catalog)), rows(site)) == before


def test_a_run_frees_what_the_dry_run_said(protected: Protected, gc: Gc) -> None:
    leave_much(protected)
    free_what_was_said(protected, gc)


def free_what_was_said(protected: Protected, gc: Gc) -> None:
    """The bucket loses what the dry run announced, and what the run reports."""
    packs, manifests = listing(protected, "packs/"), listing(protected, "manifests/")

    would = gc("--dry-run")
    did = gc("--upkeep")

    assert (would["packs"], would["manifests"], would["tombstones"]) == (1, 2, 0)
    sweep, rewriting = would["sweep"], would["rewriting"]
    assert (sweep["packs"], sweep["manifests"], sweep["unnamed"]) == (3, 2, 2)
    assert sweep["unnamed_bytes"] == len(b"from nowhere") + len(b"of nobody")
    assert did["sweep"] == {
        **sweep,
        "objects": sweep["objects"] - would["packs"] - would["manifests"],
    }
    gone = packs.keys() - listing(protected, "packs/")
    gone_manifests = manifests.keys() - listing(protected, "manifests/")
    assert len(gone) == would["packs"] + sweep["packs"] + rewriting["packs"]
    assert len(gone_manifests) == would["manifests"] + sweep["manifests"]
    strays = {key for key in gone | gone_manifests if (packs | manifests)[key] < 20}
    assert sum((packs | manifests)[key] for key in strays) == sweep["freed_bytes"]
    freed = sum(packs[key] for key in gone - strays)
    assert freed == did["freed_bytes"] == would["pack_bytes"] + rewriting["pack_bytes"]
    assert did["packs_deleted"] == would["packs"] + rewriting["packs"]
    assert did["rewriting"]["rewritten_bytes"] == rewriting["pack_bytes"]
    assert (rewriting["packs"], rewriting["unsure_packs"]) == (1, 0)
    # An estimate: items are not of one size, and a pack has more than items.
    written = sum(listing(protected, "packs/").values()) - sum(packs.values())
    written += freed + sum(packs[key] for key in gone & strays)
    assert written == did["rewriting"]["written_bytes"]
    assert written == pytest.approx(rewriting["live_bytes_estimated"], rel=0.05)
    protected.check()


def test_what_older_snapshots_need_is_said_to_be_unsure(protected: Protected, gc: Gc) -> None:
    """Of two packs that look alike, the older snapshot needs one."""
    leave_much(protected)
    protected.take("other", *range(401, 411))
    would = gc("--dry-run")["rewriting"]
    did = gc("--upkeep")["rewriting"]
    assert (would["packs"], would["unsure_packs"]) == (did["candidates"], 1) == (2, 1)
    assert did["rewritten"] == 1
    sure_bytes = would["freed_bytes_estimated"] - would["unsure_bytes"]
    freed_bytes = did["rewritten_bytes"] - did["written_bytes"]
    assert freed_bytes == pytest.approx(sure_bytes, rel=0.05)
    again = gc("--dry-run")["rewriting"]
    assert again["packs"] == 0, "not named again so soon"
    protected.check()


def test_nothing_is_left_after_a_run(protected: Protected, gc: Gc) -> None:
    leave_much(protected)
    gc("--upkeep")
    would = gc("--dry-run")
    assert would["packs"] == would["tombstones"] == would["manifests"] == 0
    assert would["sweep"]["freed_bytes"] == would["rewriting"]["packs"] == 0
    assert gc("--upkeep")["sweep"] == would["sweep"]


def test_a_run_without_upkeep_leaves_what_only_upkeep_frees(protected: Protected, gc: Gc) -> None:
    leave_much(protected)
    before = gc("--dry-run")
    assert gc()["packs_deleted"] == before["packs"]
    after = gc("--dry-run")
    assert after["rewriting"] == before["rewriting"]
    assert after["sweep"]["freed_bytes"] == before["sweep"]["freed_bytes"]


def test_only_administrators_of_all_tenants_look_and_ask(url: str) -> None:
    reader = RestClient(url, "reader")
    for path in ("/v1/upkeep/sweep", "/v1/upkeep/rewriting"):
        with pytest.raises(ForbiddenError):
            reader.get(path)
    with pytest.raises(ForbiddenError):
        reader.post("/v1/upkeep", {"upkeep": str(uuid7())})


def test_a_dry_run_that_overlooks_something_is_found(
    protected: Protected, gc: Gc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: the dry run does not see dead generations."""
    leave_much(protected)
    survey = Sweeper.survey

    def see_less(sweeper: Sweeper, cursor: str | None = None) -> tuple[SweepTally, str | None]:
        tally, after = survey(sweeper, cursor)
        tally.packs -= 1
        tally.deleted_bytes -= len(b"late")
        return tally, after

    monkeypatch.setattr(Sweeper, "survey", see_less)
    with pytest.raises(AssertionError):
        free_what_was_said(protected, gc)
