"""A small client for our REST endpoints: JSON in, JSON out, problems become our errors again."""

import contextlib
import http.client
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from libs.errors import (
    BackcastError,
    ConfigurationError,
    TooManyRequestsError,
    UnavailableError,
    error_class,
)
from libs.rest.connections import ConnectionPool, Origin, Timeouts

Json = Any

#: Our documents are far smaller; a longer answer is no answer of ours.
_ANSWER_SIZE_BYTES_MAX = 64 << 20


class RestClient:
    """Calls one service. Thread-safe; one attempt per call, which `retries.retried` may repeat.

    Args:
        base_url: such as http://127.0.0.1:8080, or https://example.org/backcast behind a proxy.
        token: bearer token; never shown.
        ca_file: certificate authorities in PEM; the system's if None.
        timeouts: how long to wait; endpoints that wait on purpose stay below it.
        server_name: name that the server's certificate must have; the URL's host if None.
        admit: see `ConnectionPool`.
        answer_size_bytes_max: longest answer that is read.

    Raises:
        ConfigurationError: not such a URL, or the file cannot be read.
    """

    def __init__(  # noqa: PLR0913 -- whom to call, and how far to trust whoever answers
        self,
        base_url: str,
        token: str,
        ca_file: Path | None = None,
        timeouts: Timeouts | None = None,
        server_name: str | None = None,
        *,
        admit: Callable[[str], None] | None = None,
        answer_size_bytes_max: int = _ANSWER_SIZE_BYTES_MAX,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.query or parts.fragment:
            raise ConfigurationError(
                f"service URL {base_url!r}: expected http://HOST:PORT or https://HOST:PORT"
            )
        self.base_url = base_url.rstrip("/")
        #: Also for whatever else is fetched by what the service says, such as from its store.
        self.ca_file = ca_file
        self._path = parts.path.rstrip("/")
        origin = Origin.parse(f"{parts.scheme}://{parts.netloc}")
        self._pool = ConnectionPool(origin, timeouts, ca_file, server_name, admit)
        self._answer_size_bytes_max = answer_size_bytes_max
        self._headers = {
            "Host": self._pool.origin.authority,
            "Authorization": f"Bearer {token}",
            "Accept": "application/json",
        }

    def get(self, path: str, query: Mapping[str, object] | None = None) -> Json:
        """GET a JSON document; ``query`` leaves out what is None."""
        return self._json("GET", path, self.get_raw(path, query))

    def post(self, path: str, body: Json = None) -> Json:
        """POST a JSON document; None where the answer has no content."""
        return self._json("POST", path, self.post_raw(path, body))

    def get_raw(self, path: str, query: Mapping[str, object] | None = None) -> bytes:
        """As `get`, undecoded: for documents that have a type."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        return self._call("GET", path, f"?{urlencode(given)}" if given else "")

    def post_raw(self, path: str, body: Json = None) -> bytes:
        """As `post`, undecoded: for documents that have a type.

        All four methods raise:
            BackcastError: what the service reported, as the class that its code names. It knows
                when to ask again, if the service said so (`UnavailableError.retry_after_seconds`).
            UnavailableError: the service does not answer, or not in JSON where that is decoded.
        """
        return self._call("POST", path, body=json.dumps(body).encode())

    def asking(self, who: str, what: str) -> AbstractContextManager[None]:
        """A context for a request to somebody else that the service has named, such as its store.

        This client does nothing about it. One that tells people whom they wait for has its own.
        """
        del who, what
        return contextlib.nullcontext()

    def _call(self, method: str, path: str, query: str = "", body: bytes | None = None) -> bytes:
        what = f"{method} {path}"
        headers = self._headers | ({"Content-Type": "application/json"} if body else {})
        view = memoryview(body) if body is not None else None
        target = self._path + path + query
        with self._pool.exchange(what, method, target, headers, view) as response:
            answer = response.read(self._answer_size_bytes_max)
            if response.length:  # given a limit, `read` takes the end of the connection for the end
                raise http.client.IncompleteRead(answer, response.length)
        if response.status >= HTTPStatus.BAD_REQUEST:
            error = problem_error(response.status, answer, f"{what} at {self.base_url}")
            if isinstance(error, UnavailableError):
                error.retry_after_seconds = _seconds_of(response.getheader("Retry-After"))
            raise error
        return answer

    def _json(self, method: str, path: str, answer: bytes) -> Json:
        try:
            return json.loads(answer) if answer else None
        except (ValueError, RecursionError) as err:
            raise UnavailableError(
                f"{method} {path} at {self.base_url}: answered without JSON"
            ) from err


def problem_error(status: int, body: bytes, what: str) -> BackcastError:
    """The error that a problem document reports; its class is found by the stable code."""
    try:
        problem = json.loads(body)
        code, detail = str(problem["code"]), str(problem["detail"])
    except (ValueError, KeyError, TypeError, RecursionError):
        is_too_much = status == HTTPStatus.TOO_MANY_REQUESTS  # a proxy's, which knows no codes
        cls = TooManyRequestsError if is_too_much else UnavailableError
        return cls(f"{what}: answered {status} without saying why")
    return error_class(code)(detail)


def _seconds_of(retry_after: str | None) -> float | None:
    """Seconds of a Retry-After header; None: there is none, or it is a date."""
    text = (retry_after or "").strip()
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None
