"""Asking a local server over HTTP whether it is ready."""

import http.client
import ssl
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path


def answers(url: str, ca_file: Path | None = None) -> bool:
    """Whether ``url`` answers with a success; with https, as one that this authority signed."""
    return status_of(url, ca_file=ca_file) == HTTPStatus.OK


def status_of(url: str, *, timeout_seconds: float = 2, ca_file: Path | None = None) -> int | None:
    """The status that ``url`` answers with, or None if it does not answer."""
    try:
        context = ssl.create_default_context(cafile=ca_file) if ca_file else None
        with urllib.request.urlopen(url, timeout=timeout_seconds, context=context) as answer:  # noqa: S310 -- our own URL
            return int(answer.status)
    except urllib.error.HTTPError as refusal:
        refusal.close()
        return refusal.code
    except (OSError, http.client.HTTPException):  # urllib's errors are OSErrors
        return None
