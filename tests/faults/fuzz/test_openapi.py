"""Requests that schemathesis makes of each service's own OpenAPI document.

Beside `test_rest`, whose requests are hostile, these are mostly such as the document describes.
What comes back must be what the document says: media type and schema.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
)

from tests.faults.conftest import Scale
from tests.faults.fuzz.rest_site import ABSENT, SEED, SERVICES, Site, rest

__all__ = ["rest"]

ROOT = Path(__file__).parents[3]
#: The checks of schemathesis that an answer must pass; which statuses there are, `test_rest` knows.
_CHECKS: Iterable[Any] = (content_type_conformance, response_schema_conformance)


def test_every_service_with_a_document_is_attacked() -> None:
    documents = (ROOT / "docs/reference").glob("openapi-*.json")
    assert {file.stem.removeprefix("openapi-") for file in documents} == set(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_every_answer_is_what_the_document_says(
    rest: Site, name: str, scale: Scale, tally: Callable[..., None]
) -> None:
    app = rest.make(name)
    schema = schemathesis.openapi.from_dict(app.openapi())
    schema.app = app
    counted = 0
    wrong: list[str] = []
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()

        @hypothesis.seed(SEED)
        @hypothesis.settings(
            max_examples=scale.pick(3, 30, 1000),
            database=None,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy())
        def attack(case: Any) -> None:
            nonlocal counted
            for parameter, values in rest.known.items():
                if parameter in (case.path_parameters or {}):
                    case.path_parameters[parameter] = values[0]
            if "wait_seconds" in (case.query or {}):
                case.query["wait_seconds"] = 0
            token = rest.token(name, case.path)
            response = case.call(headers={"Authorization": f"Bearer {token}"})
            counted += 1
            if response.status_code >= 500:
                if json.loads(response.content).get("code") not in ABSENT.get(name, ()):
                    wrong.append(f"{case.as_curl_command()}: {response.content[:500]!r}")
                return
            try:
                case.validate_response(response, checks=list(_CHECKS))
            except FailureGroup as group:
                wrong.append(f"{case.as_curl_command()}: {group.exceptions}")

        attack()
    assert not wrong, "\n".join(wrong)
    assert counted >= len(list(schema.get_all_operations()))
    tally(f"schemathesis on the {name} service", requests=counted, unexpected_answers=0)
