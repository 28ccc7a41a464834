"""What a request must be: nothing of it is ignored, and text in it is text.

A parameter or field that nobody knows is refused: whoever misspells `dry_run`, or asks a service
that is too old to know it, must not get what they did not ask for.

JSON can name one half of a character that UTF-16 writes in two. Neither Postgres nor an
answer can hold that, and no path, name or message that a person typed has it, unless it was bytes
that are not UTF-8.
"""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict
from starlette.requests import ClientDisconnect

from libs.errors import BadInputError

#: What such text looks like in a body, as an escape or as bytes: most bodies have neither.
_SIGNS = (b"\\ud", b"\\uD", b"\xed")


class Body(BaseModel):
    """A body that people and their programs send; it has no other fields than these."""

    model_config = ConfigDict(extra="forbid")


class StrictRoute(APIRoute):
    """A route that refuses parameters that it does not have, and bodies with text that is none."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As the framework says."""
        answer = super().get_route_handler()
        parameters = get_flat_params(self.dependant)
        known = {one.alias for one in parameters if isinstance(one.field_info, Query)}

        async def handle(request: Request) -> Response:
            if unknown := sorted(request.query_params.keys() - known):
                raise BadInputError(
                    f"query: {', '.join(unknown)[:200]}: no such parameter here; expected "
                    f"{', '.join(sorted(known)) or 'none'}"
                )
            try:
                body = await request.body()
            except ClientDisconnect:
                raise BadInputError("request body: its sender went before its end") from None
            _refuse_half_characters(body)
            return await answer(request)

        return handle


def _refuse_half_characters(body: bytes) -> None:
    if not any(sign in body for sign in _SIGNS):
        return
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadInputError(
            "request body: text in it is not UTF-8 (it has half of a surrogate pair); "
            "names, paths and messages must be"
        ) from None
    except (ValueError, RecursionError):
        return  # no JSON: the framework says so
