"""Reading objects by presigned URLs: for programs that hold no credentials of the store.

Imports no S3 library, so that a command starts quickly.
"""

import threading
from pathlib import Path
from urllib.parse import urlsplit

from libs.ranges import ByteRange
from libs.rest.connections import ConnectionPool, Origin, Timeouts
from libs.store import responses
from libs.store.port import check_range


class PresignedReader:
    """Reads byte ranges of objects whose URLs a `libs.store.port.Presigner` made. Thread-safe.

    One attempt per call, with the promises and errors of `ObjectStore.get_into`; an expired URL is
    a `ForbiddenError`. Messages name the path of a URL, never its signature.
    """

    def __init__(self, timeouts: Timeouts | None = None, ca_file: Path | None = None) -> None:
        self._timeouts = timeouts
        self._ca_file = ca_file
        self._pools: dict[Origin, ConnectionPool] = {}
        self._lock = threading.Lock()

    def get_into(self, url: str, wanted: ByteRange, buffer: memoryview) -> None:
        """Fill ``buffer``, which is exactly as long as ``wanted``.

        Raises:
            ConfigurationError: not an http(s) URL.
        """
        parts = urlsplit(url)
        check_range(parts.path, wanted, buffer.nbytes)
        what = f"GET {parts.path}"
        target = parts._replace(scheme="", netloc="", fragment="").geturl()
        pool = self._pool(Origin.parse(f"{parts.scheme}://{parts.netloc}"))
        headers = {"Host": pool.origin.authority, **responses.range_header(wanted)}
        with pool.exchange(what, "GET", target, headers) as response:
            responses.read_range_into(what, response, wanted, buffer)

    def close(self) -> None:
        """Close idle connections."""
        with self._lock:
            for pool in self._pools.values():
                pool.close()

    def _pool(self, origin: Origin) -> ConnectionPool:
        with self._lock:
            pool = self._pools.get(origin)
            if pool is None:
                pool = self._pools[origin] = ConnectionPool(origin, self._timeouts, self._ca_file)
            return pool
