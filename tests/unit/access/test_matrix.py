"""Every route of every service is asked with every kind of token: role, tenant and group.

The routes are those of the OpenAPI documents. What is behind them is not there, so that a request
that is let in ends with an unexpected error at the latest: only 401 and 403 keep it out.
"""

import asyncio
import importlib
import inspect
import itertools
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from fastapi import FastAPI

from libs.errors import NotFoundError
from libs.rest.auth import Tokens, digest_of
from libs.rest.server import create_app
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry
from tests.faults.fuzz.rest import Request, send
from tests.unit.access.declared import ANYBODY, DECLARED, Scope

MODULES = {
    "agent": "services.change_capture.agent.routes",
    "catalog": "services.catalog.routes",
    "coordinator": "services.change_capture.coordinator.routes",
    "restore": "services.restore.routes",
}
#: What a token may do, by what stands in its entry: `roles`, or `role` and `restore` of the earlier
#: form.
PEOPLE = {role: {"reader", role} for role in ("reader", "restore", "operator", "delete")}
PEOPLE |= {role: {"reader", role} for role in ("release", "admin")}
_ALL = {"reader", "operator", "delete", "release", "admin", "coordinator"}
RIGHTS: dict[str, set[str]] = PEOPLE | {
    "coordinator": {"coordinator"},
    "workstation": _ALL | {"restore"},
    "operator+restore": {"reader", "operator", "restore"},
    "earlier reader": {"reader"},
    "earlier reader+restore": {"reader", "restore"},
    "earlier operator": {"reader", "operator", "coordinator"},
    "earlier admin": _ALL,
    "earlier admin+restore": _ALL | {"restore"},
}
Place = Literal["own", "own group", "foreign group", "foreign tenant", "all tenants"]
PLACES: tuple[Place, ...] = ("own", "own group", "foreign group", "foreign tenant", "all tenants")

SESSION = "01900000-0000-7000-8000-000000000001"
#: Of the tenant acme: what each parameter's value is of. Nothing else is there.
GROUP_OF = {"name": "web", "session": SESSION, "restore": SESSION}
BODIES = {
    "POST /v1/tenants/{tenant}/volumes": {"name": "web", "path": "/disk", "node": "n"},
    "POST /v1/tenants/{tenant}/vms": {"name": "web", "qmp": "/vm.qmp", "node": "n"},
    "POST /v1/tenants/{tenant}/snapshots": {"session": SESSION, "name": "web"},
}
REFUSED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}


@dataclass(frozen=True)
class Cell:
    service: str
    operation: str
    rights: str
    place: Place

    @property
    def token(self) -> str:
        return f"{self.rights} of {self.place}"


def _group(tenant: str, parameter: str, value: str) -> str:
    if (tenant, value) != ("acme", GROUP_OF[parameter]):
        raise NotFoundError(f"{value}: not there")
    return "web"


def _entry(rights: str, place: Place) -> dict[str, Any]:
    token = f"{rights} of {place}"
    entry: dict[str, Any] = {"sha256": digest_of(token), "name": token}
    entry["tenant"] = {"foreign tenant": "other", "all tenants": "*"}.get(place, "acme")
    if place.endswith("group"):
        entry["groups"] = ["web" if place == "own group" else "mail"]
    _, _, name = rights.rpartition("earlier ")
    if "earlier" in rights:
        role, _, restore = name.partition("+")
        return entry | {"role": role, "restore": bool(restore)}
    return entry | {"roles": rights.split("+")}


@pytest.fixture(scope="module")
def apps() -> dict[str, FastAPI]:
    entries = [_entry(*one) for one in itertools.product(RIGHTS, PLACES)]
    tokens = Tokens(json.dumps(entries))
    made = {}
    for service, module in MODULES.items():
        add_routes = importlib.import_module(module).add_routes
        app = create_app(
            service, ServiceSettings(), Health(), new_registry(), tokens, group_of=_group
        )
        add_routes(app, *[None] * (len(inspect.signature(add_routes).parameters) - 1))
        made[service] = app
    return made


def operations(app: FastAPI) -> Iterator[str]:
    for path, methods in app.openapi()["paths"].items():
        for method in methods:
            yield f"{method.upper()} {path}"


def is_let_in(cell: Cell) -> bool:
    """Whether a request of the tenant acme, about its group web, must be let in."""
    roles, scope = DECLARED[cell.service][cell.operation]
    if roles in (ANYBODY, "any known token"):
        return True
    if RIGHTS[cell.rights].isdisjoint(roles.split()):
        return False
    if "{tenant}" not in cell.operation:
        return cell.place == "all tenants"
    if cell.place == "foreign tenant":
        return False
    if cell.place == "own group":
        return scope != "never"
    return cell.place != "foreign group"


def request_of(operation: str, scope: Scope, token: str) -> Request:
    method, _, path = operation.partition(" ")
    for name, value in {
        "tenant": "acme",
        "name": "web",
        "session": SESSION,
        "restore": SESSION,
        "verification": SESSION,
        "capture": SESSION,
        "point": "latest",
        "node": "n",
        "id": "0" * 32,
    }.items():
        path = path.replace("{" + name + "}", value)
    headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
    headers.append((b"content-type", b"application/json"))
    body = json.dumps(BODIES.get(operation, {})).encode() if method == "POST" else b""
    if body and token:
        headers.append((b"content-length", str(len(body)).encode()))
    return Request(method, path, "name=web" if scope == "query" else "", tuple(headers), body)


async def status_of(apps: dict[str, FastAPI], cell: Cell, token: str) -> int:
    _, scope = DECLARED[cell.service][cell.operation]
    answer = await send(apps[cell.service], request_of(cell.operation, scope, token), 10)
    return answer.status


@pytest.mark.parametrize("service", MODULES)
def test_every_route_says_who_may_call_it(apps: dict[str, FastAPI], service: str) -> None:
    found, declared = set(operations(apps[service])), DECLARED[service]
    assert found - declared.keys() == set(), "say in declared.py who may call these routes"
    assert declared.keys() - found == set(), "there are no such routes any more"
    paths = apps[service].openapi()["paths"]
    for operation, (roles, _) in declared.items():
        method, _, path = operation.partition(" ")
        noted = paths[path][method.lower()].get("x-backcast-roles")
        expected = {ANYBODY: None, "any known token": []}.get(roles, roles.split())
        assert noted == expected, operation


@pytest.mark.parametrize("service", MODULES)
def test_routes_let_in_exactly_those_who_may(
    apps: dict[str, FastAPI],
    service: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "libs.rest.problems")  # what is behind is not there
    routes = importlib.import_module(MODULES["coordinator"])
    monkeypatch.setattr(routes, "group_of", lambda _, tenant, name: _group(tenant, "name", name))
    verifying = importlib.import_module("services.catalog.verification.endpoints")
    there = SimpleNamespace(catalog=None, find=lambda *_: SimpleNamespace(session=SESSION))
    monkeypatch.setattr(verifying, "group_of_parameter", lambda _, *about: _group(*about))
    if service == "catalog":
        app = create_app("c", ServiceSettings(), Health(), new_registry(), None)
        app.state.tokens, app.state.group_of = apps[service].state.tokens, _group
        verifying.add_verify_routes(app, there, there)
    cells = [
        Cell(service, operation, rights, place)
        for operation, rights, place in itertools.product(DECLARED[service], RIGHTS, PLACES)
    ]

    async def ask() -> list[tuple[Cell, int]]:
        wrong = []
        for cell in cells:
            asked = apps
            if cell.operation == "GET /v1/tenants/{tenant}/verifications/{verification}":
                asked = {"catalog": app}
            status = await status_of(asked, cell, cell.token)
            if (status not in REFUSED) != is_let_in(cell):
                wrong.append((cell, status))
        return wrong

    assert asyncio.run(ask()) == []
    assert sum(map(is_let_in, cells)) > 0


@pytest.mark.parametrize("service", MODULES)
def test_nobody_is_let_in_without_a_token(apps: dict[str, FastAPI], service: str) -> None:
    async def ask() -> dict[str, int]:
        return {
            operation: await status_of(apps, Cell(service, operation, "reader", "own"), token)
            for operation, (roles, _) in DECLARED[service].items()
            if roles != ANYBODY
            for token in ("", "unknown")
        }

    assert set(asyncio.run(ask()).values()) == {HTTPStatus.UNAUTHORIZED}


def test_whoever_backs_up_cannot_delete() -> None:
    deleting = {
        operation
        for routes in DECLARED.values()
        for operation, (roles, _) in routes.items()
        if "delete" in roles.split() and "operator" not in roles.split()
    }
    assert len(deleting) >= 5
    with pytest.raises(Exception, match="two tokens"):
        Tokens(json.dumps([_entry("operator+delete", "own")]))
