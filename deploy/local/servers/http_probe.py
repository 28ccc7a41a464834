"""Asking a local server over HTTP whether it is ready."""

import http.client
import urllib.error
import urllib.request
from http import HTTPStatus


def answers(url: str) -> bool:
    """Whether ``url`` answers with a success."""
    return status_of(url) == HTTPStatus.OK


def status_of(url: str, *, timeout_seconds: float = 2) -> int | None:
    """The status that ``url`` answers with, or None if it does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_seconds) as answer:  # noqa: S310 -- our own http URL
            return int(answer.status)
    except urllib.error.HTTPError as refusal:
        refusal.close()
        return refusal.code
    except (OSError, http.client.HTTPException):  # urllib's errors are OSErrors
        return None
