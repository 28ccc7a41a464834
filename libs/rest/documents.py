"""Describes in OpenAPI what the framework cannot know: some answers, and who may call.

Some answers are msgspec documents, which their own codec encodes.

Such a document is decoded by a client with the same definition. So the definition lies in `libs`
and knows no web framework.
"""

from collections.abc import Iterable, MutableMapping
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import Response
from fastapi.routing import APIRoute

from libs.rest.auth import Requirement

#: Of an operation: the roles of which a caller needs one; an empty list: any known token.
ROLES_FIELD = "x-backcast-roles"
_COMPONENTS = "#/components/schemas/{name}"
_JSON = "application/json"


def answers(document: type[msgspec.Struct], status: HTTPStatus = HTTPStatus.OK) -> dict[str, Any]:
    """Arguments for the decorator of a route that returns a response with a ``document``."""
    (reference,), schemas = msgspec.json.schema_components([document], ref_template=_COMPONENTS)
    schema = reference | {"$defs": schemas}
    described = {"description": status.phrase, "content": {_JSON: {"schema": schema}}}
    return {"status_code": status, "response_class": Response, "responses": {status: described}}


def share_schemas(openapi: MutableMapping[str, Any]) -> None:
    """Move the schemas that `answers` put beside their use to where they are looked for."""
    for path in openapi["paths"].values():
        for operation in path.values():
            for response in operation["responses"].values():
                schema = response.get("content", {}).get(_JSON, {}).get("schema", {})
                for name, shared in schema.pop("$defs", {}).items():
                    known = openapi["components"]["schemas"].setdefault(name, shared)
                    assert known == shared, f"two documents are called {name}"


def requirement_of(route: object) -> Requirement | None:
    """What a route asks of its callers; None: nothing, as `/healthz` does."""
    if isinstance(route, APIRoute):
        for dependency in route.dependant.dependencies:
            if isinstance(dependency.call, Requirement):
                return dependency.call
    return None


def note_roles(openapi: MutableMapping[str, Any], routes: Iterable[object]) -> None:
    """Say of each operation of an OpenAPI document which roles may call it."""
    for route in routes:
        required = requirement_of(route)
        if required is not None and isinstance(route, APIRoute):
            for method in route.methods or ():
                operation = openapi["paths"][route.path_format].get(method.lower())
                if operation is not None:
                    operation[ROLES_FIELD] = [role.value for role in required.roles]
