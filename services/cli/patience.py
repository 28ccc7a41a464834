"""Requests that are sent again until they are answered: only such as are safe to repeat."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from libs.errors import TooManyRequestsError
from libs.runtime.retries import retried, tried_again
from services.cli.streams import tell_line

if TYPE_CHECKING:  # it brings urllib3, which ``--help`` need not wait for
    from libs.rest.client import RestClient

#: A service that is restarted is back well within this time.
RETRY_SECONDS_MAX = 30.0
#: Between two looks at a service that said that it is asked too much, and not when to come again.
_TOO_MUCH_SECONDS = 1.0
#: What is waited for at most, whatever a service or a proxy says.
_TOLD_SECONDS_MAX = 60.0


def get_again(
    client: "RestClient",
    path: str,
    query: Mapping[str, object] | None = None,
    seconds_max: float = RETRY_SECONDS_MAX,
) -> Any:
    """GET a document, for commands that follow something.

    A service that says that it is asked too much at once is there: what the command follows goes
    on, so the command waits as told and asks again for as long as it takes. It says so once.

    Args:
        client: of the service.
        path: of the document.
        query: leaves out what is None.
        seconds_max: how long a service is tried again that does not answer.

    Raises:
        BackcastError: as `RestClient.get`; `TooManyRequestsError` never.
    """
    is_told = False

    def ask() -> Any:
        nonlocal is_told
        while True:
            try:
                return client.get(path, query)
            except TooManyRequestsError as err:
                if not is_told:
                    tell_line(f"waiting: {err}")
                is_told = True
                told = err.retry_after_seconds
                time.sleep(_TOO_MUCH_SECONDS if told is None else min(told, _TOLD_SECONDS_MAX))

    return retried(ask, seconds_max)


def get_page(client: "RestClient", path: str, query: Mapping[str, object]) -> Any:
    """GET one of many pages: as `get_again`, but a service that does not answer is told at once."""
    return get_again(client, path, query, seconds_max=0)


@tried_again(RETRY_SECONDS_MAX)
def post_again(client: "RestClient", path: str, body: Mapping[str, object]) -> Any:
    """POST what names itself, so that asking twice does it once; errors of `RestClient.post`."""
    return client.post(path, body)
