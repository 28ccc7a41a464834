"""Asking a local server over HTTP whether it is ready."""

import http.client
import urllib.request


def answers(url: str, *, timeout_seconds: float = 2) -> bool:
    """Whether ``url`` answers with a success."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_seconds):  # noqa: S310 -- our own http URL
            return True
    except (OSError, http.client.HTTPException):  # urllib's errors are OSErrors
        return False
