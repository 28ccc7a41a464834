"""Expiry, holds, retention and collection by REST: who may, and what the answers are."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from libs.catalogdb.access.groups import group_of_parameter
from libs.catalogdb.snapshots.retention import observe_clock
from libs.copies.stores import Stores
from libs.errors import ConflictError, ForbiddenError, NotFoundError
from libs.rest.auth import Tokens, digest_of
from libs.rest.client import RestClient
from libs.rest.server import create_app, serving
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry
from services.catalog.deletion.collection_endpoints import add_collection_routes
from services.catalog.deletion.collector import Collector
from services.catalog.deletion.expiry_endpoints import add_snapshot_routes
from services.catalog.deletion.passes import Collection
from tests.integration.catalog.protected import TENANT, Protected, in_folder
from tests.support.catalog import CatalogSite

#: token → (tenant, role) in the earlier form
TOKENS = {"ops": ("*", "admin"), "reader": (TENANT, "reader"), "stranger": ("other", "admin")}
#: token → (roles, groups)
PEOPLE: dict[str, tuple[list[str], list[str]]] = {
    "backer": (["operator"], []),
    "deleter": (["delete"], []),
    "legal": (["release"], []),
    "of vm": (["delete"], ["vm"]),
    "of other": (["delete", "release"], ["other"]),
}


@pytest.fixture
def protected(site: CatalogSite, tmp_path: Path) -> Protected:
    """A volume with three snapshots."""
    made = in_folder(site, tmp_path)
    made.protect("vm")
    for number in range(3):
        made.take("vm", 1, 10 + number)
    return made


@pytest.fixture
def url(protected: Protected) -> Iterator[str]:
    entries: list[dict[str, Any]] = [
        {"sha256": digest_of(token), "tenant": tenant, "role": role, "name": token}
        for token, (tenant, role) in TOKENS.items()
    ]
    for token, (roles, groups) in PEOPLE.items():
        entry = {"sha256": digest_of(token), "tenant": TENANT, "roles": roles, "groups": groups}
        entries.append(entry | {"name": token})
    settings = ServiceSettings()
    catalog = protected.site.catalog
    app = create_app(
        "test",
        settings,
        Health(),
        new_registry(),
        Tokens(json.dumps(entries)),
        group_of=functools.partial(group_of_parameter, catalog),
    )
    collector = Collector(
        catalog, Stores(protected.store), protected.vault, 60, protected.checkpoints.witness
    )
    add_collection_routes(app, catalog, Collection(collector.stages()))
    add_snapshot_routes(app, catalog, protected.checkpoints.witness)
    with serving(app, settings) as running:
        yield running


def post(url: str, below: str, body: Any = None, token: str = "ops") -> Any:
    return RestClient(url, token).post(f"/v1/tenants/{TENANT}{below}", body)


def get(url: str, below: str, token: str = "reader") -> Any:
    return RestClient(url, token).get(f"/v1/tenants/{TENANT}{below}")


def test_a_snapshot_is_held_released_and_given_up(protected: Protected, url: str) -> None:
    first = protected.sessions["vm", 1]
    path = f"/snapshots/{first}"
    held = post(url, f"{path}/hold", {"reason": "case 17"})
    assert (held["owner"], held["reason"]) == ("ops", "case 17")
    assert get(url, "/holds") == [held]
    with pytest.raises(ConflictError, match="ops holds it: case 17"):
        post(url, f"{path}/expire")
    with pytest.raises(NotFoundError, match="legal does not hold it"):
        post(url, f"{path}/release", {"owner": "legal"})
    post(url, f"{path}/release", {})
    assert post(url, f"{path}/expire") == {"session": str(first), "sequence": 1}
    (gone,) = get(url, "/expired?name=vm")
    assert (gone["group"], gone["sequence"]) == ("vm", 1)


def test_a_hold_is_its_owners_unless_somebody_may_release_those_of_others(
    protected: Protected, url: str
) -> None:
    path = f"/snapshots/{protected.sessions['vm', 1]}"
    post(url, f"{path}/hold", {"reason": "audit"}, "backer")
    post(url, f"{path}/hold", {"reason": "case 17"}, "deleter")
    refused: list[tuple[str, dict[str, str]]] = [
        ("backer", {}),  # it backs up, and gives nothing up
        ("backer", {"owner": "backer"}),
        ("deleter", {"owner": "backer"}),
        ("reader", {}),
    ]
    for token, body in refused:
        with pytest.raises(ForbiddenError, match="needs role"):
            post(url, f"{path}/release", body, token)
    with pytest.raises(ForbiddenError, match="needs role release"):
        post(url, f"{path}/hold", {"reason": "mine now", "owner": "backer"}, "deleter")
    post(url, f"{path}/release", {}, "deleter")
    assert [(one["owner"], one["reason"]) for one in get(url, "/holds")] == [("backer", "audit")]
    post(url, f"{path}/release", {"owner": "backer"}, "legal")
    assert get(url, "/holds") == []
    for token in ("backer", "legal"):
        with pytest.raises(ForbiddenError, match="needs role delete"):
            post(url, f"{path}/expire", None, token)


def test_who_backs_up_may_keep_more_but_never_fewer(protected: Protected, url: str) -> None:
    path = "/volumes/vm/retention"
    rule = {"keep_last": 3, "keep_for_seconds": 60, "copies": 1}
    with pytest.raises(ForbiddenError, match="needs role delete"):
        post(url, path, rule, "backer")  # everything stays now
    post(url, path, rule, "deleter")
    post(url, path, rule | {"keep_last": 4, "copies": 2}, "backer")
    for fewer in ({"keep_last": 3}, {"keep_for_seconds": 59}, {"copies": 1}):
        changed = {"keep_last": 4, "keep_for_seconds": 60, "copies": 2} | fewer
        assert post(url, f"{path}?dry_run=true", changed, "backer")
        with pytest.raises(ForbiddenError, match="needs role delete"):
            post(url, path, changed, "backer")
    everything = {"keep_last": None, "keep_for_seconds": None}
    post(url, path, everything, "backer")
    assert get(url, path) == everything | {"copies": 2}


def test_who_keeps_fewer_than_what_was_decided_meanwhile_needs_the_right(
    protected: Protected, url: str
) -> None:
    """The change waits for one that keeps more, and is judged by what that has left."""
    path = "/volumes/vm/retention"
    post(url, path, {"keep_last": 3}, "deleter")
    group = "SELECT FROM volume_group WHERE name = 'vm' FOR UPDATE"
    with protected.site.holding(group) as meanwhile:
        waiting = protected.site.start(post, url, path, {"keep_last": 4}, "backer")
        protected.site.wait_until_waiting(1)
        meanwhile.execute("UPDATE retention SET keep_last = 20")
    with pytest.raises(ForbiddenError, match=r"the newest 4 .* instead of the newest 20"):
        waiting.result()
    assert get(url, path)["keep_last"] == 20


def test_a_number_of_copies_alone_leaves_the_rule(protected: Protected, url: str) -> None:
    path, rule = "/volumes/vm/retention", {"keep_last": 2, "keep_for_seconds": 60}
    post(url, path, rule | {"copies": 2})
    asked = post(url, f"{path}?dry_run=true", {"copies": 1})
    assert asked == rule | {"copies": 1, "expires": []}
    assert get(url, path) == rule | {"copies": 2}
    with pytest.raises(ForbiddenError, match="at 2 stores needs role delete"):
        post(url, path, {"copies": 1}, "backer")
    post(url, path, {"copies": 1})
    assert get(url, path) == rule | {"copies": 1}


def test_a_token_of_some_groups_sees_others_as_what_is_not_there(
    protected: Protected, url: str
) -> None:
    first = protected.sessions["vm", 1]
    nothing = "01900000-0000-7000-8000-000000000001"
    for path in (f"/snapshots/{first}/expire", f"/snapshots/{nothing}/expire"):
        with pytest.raises(ForbiddenError, match="is for group other alone"):
            post(url, path, None, "of other")
    for path in ("/volumes/vm/retention", "/volumes/nothing/retention", "/holds", "/expired"):
        with pytest.raises(ForbiddenError, match="is for group other alone"):
            get(url, path, "of other")
    assert get(url, "/volumes/vm/retention", "of vm")["copies"] == 1
    assert post(url, f"/snapshots/{first}/expire", None, "of vm")["sequence"] == 1
    assert len(get(url, "/expired?name=vm", "of vm")) == 1


def test_retention_is_changed_and_shown(protected: Protected, url: str) -> None:
    path = "/volumes/vm/retention"
    nothing = {"keep_last": None, "keep_for_seconds": None, "copies": 1}
    assert get(url, path) == nothing
    rule = {"keep_last": 3, "keep_for_seconds": 60, "copies": 2}
    assert post(url, f"{path}?dry_run=true", rule)["keep_last"] == 3
    assert get(url, path) == nothing
    assert post(url, path, rule) == rule | {"expires": []}
    assert get(url, path) == rule
    changed = rule | {"keep_last": 1, "expires": []}
    assert post(url, path, {"keep_for_seconds": 60}) == changed
    post(url, path, nothing)
    assert get(url, path) == nothing


def test_a_dry_run_says_what_would_be_given_up_and_gives_up_nothing(
    protected: Protected, url: str
) -> None:
    observe_clock(protected.site.catalog, None, 0)
    path, rule = "/volumes/vm/retention", {"keep_last": 1, "keep_for_seconds": 0}
    assert post(url, f"{path}?dry_run=true", rule)["expires"] == [1, 2]
    assert post(url, f"{path}?dry_run=true", rule | {"keep_last": 2})["expires"] == [1]
    assert post(url, f"{path}?dry_run=true", rule | {"keep_for_seconds": 3600})["expires"] == []
    first, last = protected.sessions["vm", 1], protected.sessions["vm", 3]
    given_up = {"session": str(first), "sequence": 1}
    assert post(url, f"/snapshots/{first}/expire?dry_run=true") == given_up
    with pytest.raises(ConflictError, match="last good recovery point"):
        post(url, f"/snapshots/{last}/expire?dry_run=true")
    assert get(url, "/expired") == []
    protected.check()


@pytest.mark.parametrize("path", ["/holds", "/expired", "/expired?name=vm"])
def test_a_tenant_that_does_not_exist_has_no_empty_list(
    protected: Protected, url: str, path: str
) -> None:
    with pytest.raises(NotFoundError, match="tenant nobody"):
        RestClient(url, "ops").get(f"/v1/tenants/nobody{path}")
    with pytest.raises(NotFoundError, match="nothing"):
        get(url, "/expired?name=nothing")


def test_what_can_be_freed_is_freed_step_by_step(protected: Protected, url: str) -> None:
    operator = RestClient(url, "ops")
    post(url, f"/snapshots/{protected.sessions['vm', 1]}/expire")
    del protected.live["vm", 1]
    found = operator.get("/v1/collection")
    assert (found["reconciled"], found["manifests"]) == (True, 1)
    assert not found["clock"]["halted"]
    cursor, deleted, freed_bytes = None, 0, 0
    while True:
        step = operator.post("/v1/collection/steps", {"cursor": cursor})
        deleted, freed_bytes = deleted + step["packs_deleted"], freed_bytes + step["freed_bytes"]
        cursor = step["cursor"]
        if cursor is None:
            break
    assert (deleted, freed_bytes) == (found["packs"], found["pack_bytes"])
    assert operator.get("/v1/collection")["manifests"] == 0
    assert operator.get("/v1/collection")["halts"] == []
    protected.check()


@pytest.mark.parametrize("token", ["reader", "stranger"])
def test_only_the_tenants_administrators_may_let_go(
    protected: Protected, url: str, token: str
) -> None:
    path = f"/snapshots/{protected.sessions['vm', 1]}"
    for below, body in [
        (f"{path}/expire", None),
        (f"{path}/hold", {"reason": "mine"}),
        (f"{path}/release", {}),
        ("/volumes/vm/retention", {"keep_last": 1}),
    ]:
        with pytest.raises(ForbiddenError):
            post(url, below, body, token)
    with pytest.raises(ForbiddenError):
        RestClient(url, token).post("/v1/collection/steps", {"cursor": None})
    with pytest.raises(ForbiddenError):
        RestClient(url, token).post("/v1/halts/clock-jump-0/acceptance")
