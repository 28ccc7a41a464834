"""Bodies of requests: text in them must be text, whatever JSON can write down.

JSON can name one half of a character that UTF-16 writes in two. Neither Postgres nor an
answer can hold that, and no path, name or message that a person typed has it, unless it was bytes
that are not UTF-8.
"""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from libs.errors import BadInputError

#: What such text looks like in a body, as an escape or as bytes: most bodies have neither.
_SIGNS = (b"\\ud", b"\\uD", b"\xed")


class TextRoute(APIRoute):
    """A route that refuses bodies with text that is none."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As the framework says."""
        answer = super().get_route_handler()

        async def handle(request: Request) -> Response:
            _refuse_half_characters(await request.body())
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
