"""A small client for our REST endpoints: JSON in, JSON out, problems become our errors again."""

import json
from collections.abc import Mapping
from typing import Any

import urllib3

from libs import errors
from libs.errors import BackcastError, ConfigurationError, UnavailableError

Json = Any

#: Longest time that a peer may take to answer; endpoints that wait on purpose stay below it.
_TIMEOUT = urllib3.Timeout(connect=5, read=60)


class RestClient:
    """Calls one service. Thread-safe.

    Args:
        base_url: such as http://127.0.0.1:8080.
        token: bearer token; never shown.
        ca_file: certificate authorities in PEM; the system's if None.
    """

    def __init__(self, base_url: str, token: str, ca_file: str | None = None) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ConfigurationError(
                f"service URL {base_url!r}: expected http://HOST:PORT or https://HOST:PORT"
            )
        self.base_url = base_url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"}
        self._pool = urllib3.PoolManager(
            timeout=_TIMEOUT, retries=False, maxsize=8, ca_certs=ca_file
        )

    def get(self, path: str, query: Mapping[str, object] | None = None) -> Json:
        """GET a JSON document."""
        return self.call("GET", path, query=query)

    def post(self, path: str, body: Json = None) -> Json:
        """POST a JSON document."""
        return self.call("POST", path, body=body)

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Json = None,
    ) -> Json:
        """Make one request; None where the answer has no content.

        Raises:
            BackcastError: what the service reported, as the class that its code names.
            UnavailableError: the service does not answer, or not in JSON.
        """
        response = self.open(method, path, query=query, body=body)
        if not response.data:
            return None
        try:
            return json.loads(response.data)
        except ValueError as err:
            raise UnavailableError(
                f"{self.base_url}{path}: answered {response.status} without JSON"
            ) from err

    def open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Json = None,
        headers: Mapping[str, str] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """Make one request and return its answer if it is a success; errors as `call`."""
        try:
            response = self._pool.request(
                method,
                self.base_url + path,
                fields={k: str(v) for k, v in query.items() if v is not None} if query else None,
                body=None if body is None else json.dumps(body).encode(),
                headers=self._headers
                | ({"Content-Type": "application/json"} if body is not None else {})
                | dict(headers or {}),
            )
        except urllib3.exceptions.HTTPError as err:
            raise UnavailableError(
                f"{self.base_url}: no answer ({type(err).__name__}); is the service running?"
            ) from err
        if response.status >= 400:
            raise problem_error(response.status, response.data, self.base_url + path)
        return response


def problem_error(status: int, body: bytes, url: str) -> BackcastError:
    """The error that a problem document reports; its class is found by the stable code."""
    try:
        problem = json.loads(body)
        code, detail = str(problem["code"]), str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        return UnavailableError(f"{url}: answered {status}")
    return _BY_CODE.get(code, BackcastError)(detail)


def _tree(cls: type[BackcastError]) -> list[type[BackcastError]]:
    return [cls, *(found for sub in cls.__subclasses__() for found in _tree(sub))]


_BY_CODE = {cls.code: cls for cls in _tree(errors.BackcastError)}
