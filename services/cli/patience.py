"""Requests that are sent again until they are answered: only such as are safe to repeat."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from libs.runtime.retries import tried_again

if TYPE_CHECKING:  # it brings urllib3, which ``--help`` need not wait for
    from libs.rest.client import RestClient

#: A service that is restarted is back well within this time.
RETRY_SECONDS_MAX = 30.0


@tried_again(RETRY_SECONDS_MAX)
def get_again(client: "RestClient", path: str, query: Mapping[str, object] | None = None) -> Any:
    """GET a document; the errors of `RestClient.get`."""
    return client.get(path, query)


@tried_again(RETRY_SECONDS_MAX)
def post_again(client: "RestClient", path: str, body: Mapping[str, object]) -> Any:
    """POST what names itself, so that asking twice does it once; errors of `RestClient.post`."""
    return client.post(path, body)
