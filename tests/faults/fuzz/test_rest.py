"""Hostile requests to every endpoint of every service: answered, never with an unexpected error."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable

import pytest

from tests.faults.conftest import Scale
from tests.faults.fuzz.rest import Answer, Request, Requests, send
from tests.faults.fuzz.rest_site import ABSENT, SEED, Site, rest

__all__ = ["rest"]

SECONDS_MAX = 20
#: Also by the framework, before anybody asks who it is: redirects, bodies that are no JSON.
_REFUSED = {307, 400, 401, 404, 405, 413, 422}


def check(name: str, request: Request, answer: Answer, authorized: bool) -> None:
    shown = f"{name}: {request!r:.1500} → {answer.status} {answer.body[:500]!r}"
    if answer.status >= 500:
        assert json.loads(answer.body)["code"] in ABSENT.get(name, ()), shown
    if not authorized:
        assert answer.status in _REFUSED, shown
    if answer.status >= 400 and request.method != "HEAD":
        problem = json.loads(answer.body)
        assert problem["status"] == answer.status, shown


@pytest.mark.parametrize("name", ["restore", "coordinator", "catalog", "agent", "nodes"])
def test_hostile_requests_are_answered(
    rest: Site, name: str, scale: Scale, tally: Callable[..., None]
) -> None:
    count = scale.pick(250, 2_500, 200_000)
    app, statuses = rest.make(name), Counter[int]()
    token = rest.node_token if name == "nodes" else "t"
    requests = Requests(app, rest.known, SEED)

    async def attack() -> None:
        for number in range(count):
            authorized = number % 5 != 0 or number % 7 == 0
            request = requests.make(number, token if authorized else None)
            answer = await send(app, request, SECONDS_MAX)
            check(name, request, answer, authorized)
            statuses[answer.status] += 1

    asyncio.run(attack())
    assert sum(statuses.values()) == count
    assert len(statuses) >= 3, statuses  # some were understood
    tally(f"fuzzing of the {name} service", requests=count, unexpected_errors=0)
