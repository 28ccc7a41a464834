"""Describes answers in OpenAPI that are msgspec documents, which their own codec encodes.

Such a document is decoded by a client with the same definition. So the definition lies in `libs`
and knows no web framework.
"""

from collections.abc import MutableMapping
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import Response

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
