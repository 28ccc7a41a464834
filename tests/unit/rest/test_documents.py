from http import HTTPStatus
from typing import Annotated

import msgspec
from fastapi import FastAPI, Response
from msgspec import Meta

from libs.rest.documents import answers
from libs.rest.server import create_app
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry


class Wheel(msgspec.Struct):
    """It turns."""

    spokes: Annotated[int, Meta(ge=3, le=99)]


class Cart(msgspec.Struct):
    """It rolls."""

    wheels: Annotated[list[Wheel], Meta(max_length=4)]


def app_with_documents() -> FastAPI:
    app = create_app("Carts", ServiceSettings(), Health(), new_registry())

    @app.get("/wheel", **answers(Wheel))
    def wheel() -> Response:
        raise NotImplementedError("only its description is asked for")

    @app.post("/carts", **answers(Cart, HTTPStatus.CREATED))
    def cart() -> Response:
        raise NotImplementedError("only its description is asked for")

    return app


def test_a_document_is_described_once_where_references_to_it_point() -> None:
    described = app_with_documents().openapi()
    schemas = described["components"]["schemas"]
    created = described["paths"]["/carts"]["post"]["responses"]["201"]
    assert created["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Cart"}
    wheels = schemas["Cart"]["properties"]["wheels"]
    assert wheels == {
        "type": "array", "items": {"$ref": "#/components/schemas/Wheel"}, "maxItems": 4
    }  # fmt: skip
    assert schemas["Wheel"]["properties"]["spokes"] == {
        "type": "integer", "minimum": 3, "maximum": 99
    }  # fmt: skip
    assert "$defs" not in str(described)
