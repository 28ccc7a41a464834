"""Requests that wait to be recorded share a transaction, and none of them waits for nothing."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from fastapi import FastAPI

from libs.access.acts import Act
from libs.access.audit_log import AuditLog
from libs.access.recorded import NotRecordedError
from libs.catalogdb.pool import Catalog
from libs.errors import UnavailableError
from libs.rest.auth import Requirement, Role, TokenEntry, require

ENTRY = TokenEntry(sha256="a" * 64, tenant="acme", roles=(Role.DELETE,), name="d\x00sk" + "x" * 99)
SECONDS_MAX = 60.0


class Writing:
    """Keeps what is written together; the first write waits until it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[Act]] = []
        self.begun, self.go = threading.Event(), threading.Event()
        self.error: Exception | None = None

    def __call__(self, _: Catalog, acts: Sequence[Act]) -> None:
        self.begun.set()
        assert self.go.wait(SECONDS_MAX)
        if self.error:
            raise self.error
        self.batches.append(list(acts))


@pytest.fixture
def writing() -> Writing:
    return Writing()


@pytest.fixture
def log(writing: Writing) -> Iterator[AuditLog]:
    catalog: Any = None  # what is written goes nowhere
    made = AuditLog(catalog, "catalog", writing)
    yield made
    writing.go.set()
    made.close()


def scope(number: int, requirement: Requirement) -> dict[str, Any]:
    app = FastAPI()
    app.add_api_route("/v1/tenants/{tenant}/x", lambda: None, methods=["POST"])
    (route,) = [one for one in app.routes if one.path == "/v1/tenants/{tenant}/x"]  # type: ignore[attr-defined] # each has one
    route.dependant.dependencies.append(  # type: ignore[attr-defined] # it is an APIRoute
        type("Dependency", (), {"call": requirement})()
    )
    return {
        "route": route,
        "method": "POST",
        "raw_path": b"/v1/tenants/acme/x\xff",
        "query_string": f"n={number}".encode(),
        "path_params": {"tenant": "acme\x00"},
        "client": ("10.0.0.7", 1),
    }


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, SECONDS_MAX)


def test_those_that_wait_share_a_transaction(log: AuditLog, writing: Writing) -> None:
    asked = [scope(n, require(Role.DELETE)) for n in range(6)]

    async def run() -> None:
        first = asyncio.create_task(log.note(asked[0], ENTRY, 200))
        await until(writing.begun)
        others = [asyncio.create_task(log.note(one, ENTRY, 200)) for one in asked[1:]]
        await asyncio.sleep(0)
        writing.go.set()
        await asyncio.gather(first, *others)

    asyncio.run(run())
    assert [len(batch) for batch in writing.batches] == [1, 5]
    act = writing.batches[0][0]
    assert act.target == "/v1/tenants/acme/x\\xff?n=0"
    assert "\x00" not in act.token + act.tenant
    assert len(act.token) == 63
    assert (act.roles, act.route, act.address) == (
        ("delete", "reader"),
        "/v1/tenants/{tenant}/x",
        "10.0.0.7",
    )


def test_one_that_waits_no_more_makes_no_other_wait(log: AuditLog, writing: Writing) -> None:
    asked = [scope(n, require(Role.DELETE)) for n in range(3)]

    async def run() -> None:
        first = asyncio.create_task(log.note(asked[0], ENTRY, 200))
        await until(writing.begun)
        gone = asyncio.create_task(log.note(asked[1], ENTRY, 200))
        other = asyncio.create_task(log.note(asked[2], ENTRY, 200))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        writing.go.set()
        await asyncio.wait_for(asyncio.gather(first, other), SECONDS_MAX)

    asyncio.run(run())
    assert [len(batch) for batch in writing.batches] == [1, 2]  # it is in the log nevertheless


def test_all_of_a_transaction_that_failed_are_told(log: AuditLog, writing: Writing) -> None:
    writing.error = UnavailableError("catalog: away")
    writing.go.set()

    async def run() -> list[Any]:
        asked = [scope(n, require(Role.DELETE)) for n in range(3)]
        notes = [log.note(one, ENTRY, 200) for one in asked]
        return await asyncio.gather(*notes, return_exceptions=True)

    told = asyncio.run(run())
    assert [type(one) for one in told] == [NotRecordedError] * 3
