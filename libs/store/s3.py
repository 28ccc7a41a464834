"""The object store on an S3 bucket, by our own signatures and connections.

It uses the smallest part of S3 that does the work (PUT, GET with Range, HEAD, DELETE,
ListObjectsV2; path-style addresses) and no conditional requests, which servers implement
differently.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPResponse
from pathlib import Path
from types import MappingProxyType
from urllib.parse import SplitResult, quote, urlsplit

from libs.errors import BadInputError, DamagedDataError, NotFoundError, UnavailableError
from libs.ranges import ByteRange
from libs.rest.connections import ConnectionPool, Origin, Timeouts
from libs.store import responses
from libs.store.checksums import UNSIGNED_PAYLOAD, PutChecksum, integrity_headers
from libs.store.listing import ListedPage, ListingCheck, parse_page
from libs.store.port import (
    Body,
    ObjectStat,
    ObjectStore,
    Presigner,
    check_body,
    check_key,
    check_prefix,
    check_range,
)
from libs.store.signing import Signer, amz_date

#: Keys per page of a listing: the most that S3 gives.
PAGE_COUNT_MAX = 1_000
#: S3's limit for a presigned URL: 7 days.
PRESIGN_SECONDS_MAX = 7 * 24 * 3_600


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Bucket:
    """Where a bucket is, and the credentials to use it, which are never shown."""

    #: http://HOST[:PORT] or https://HOST[:PORT].
    endpoint: str
    bucket: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    region: str = "us-east-1"
    #: PEM file of the authorities to trust for https; the system's if None.
    ca_file: Path | None = None


class S3Store:
    """One bucket of an S3 server. Thread-safe; each call is one request (`list`: one per page)."""

    def __init__(
        self,
        bucket: S3Bucket,
        *,
        put_checksum: PutChecksum = PutChecksum.CRC32C,
        timeouts: Timeouts | None = None,
        page_count: int = PAGE_COUNT_MAX,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Connect to nothing yet.

        Args:
            bucket: must exist.
            put_checksum: one that the server verifies; `libs.store.probe` finds out.
            timeouts: connect 5 s and 60 s per piece of 1 MiB if None.
            page_count: keys per page of a listing, at most `PAGE_COUNT_MAX`.
            now: the clock for signatures, which servers accept within 15 minutes of their own.

        Raises:
            ConfigurationError: the endpoint or the CA file is no good.
        """
        origin = Origin.parse(bucket.endpoint)
        self._bucket = bucket
        self._base_url = f"{origin}/{quote(bucket.bucket, safe='')}"
        self._signer = Signer(bucket.access_key, bucket.secret_key, bucket.region)
        self._connections = ConnectionPool(origin, timeouts, bucket.ca_file)
        self._put_checksum = put_checksum
        self._page_count = page_count
        self._now = now

    def put(self, key: str, body: Body) -> None:
        """See `ObjectStore.put`."""
        view = check_body(key, body)
        self.put_with_headers(key, view, integrity_headers(self._put_checksum, view))

    def put_with_headers(self, key: str, body: memoryview, headers: Mapping[str, str]) -> None:
        """PUT with the caller's integrity headers: what the probe tests a server with.

        Raises:
            ConflictError: a precondition in ``headers`` does not hold.
        """
        what = self._what("PUT", key)
        with self._exchange(what, "PUT", f"/{check_key(key)}", headers, body) as response:
            if response.status != 200:
                responses.raise_refusal(what, response)
            response.read()
            _check_stored_checksum(what, response, headers)

    def get(self, key: str) -> bytes:
        """See `ObjectStore.get`."""
        what = self._what("GET", key)
        with self._exchange(what, "GET", f"/{check_key(key)}") as response:
            return responses.read_whole(what, response)

    def get_range(self, key: str, wanted: ByteRange) -> bytes:
        """See `ObjectStore.get_range`."""
        check_range(key, wanted)
        what = self._what("GET", key)
        with self._exchange(
            what, "GET", f"/{check_key(key)}", responses.range_header(wanted)
        ) as response:
            return responses.read_range(what, response, wanted)

    def get_into(self, key: str, wanted: ByteRange, buffer: memoryview) -> None:
        """See `ObjectStore.get_into`."""
        check_range(key, wanted, buffer.nbytes)
        what = self._what("GET", key)
        with self._exchange(
            what, "GET", f"/{check_key(key)}", responses.range_header(wanted)
        ) as response:
            responses.read_range_into(what, response, wanted, buffer)

    def stat(self, key: str) -> ObjectStat | None:
        """See `ObjectStore.stat`."""
        what = self._what("HEAD", key)
        with self._exchange(what, "HEAD", f"/{check_key(key)}") as response:
            length = response.getheader("Content-Length", "")
            modified = response.getheader("Last-Modified", "")
            response.read()
            if response.status not in (200, 404):
                responses.raise_refusal(what, response)
            responses.refuse_encoding(what, response)
        if response.status == 404:
            self._confirm_missing(key)
            return None
        try:
            return ObjectStat(key, int(length), parsedate_to_datetime(modified))
        except ValueError as error:
            raise UnavailableError(f"{what}: the answer has no size or no date") from error

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectStat]:
        """See `ObjectStore.list`."""
        check_prefix(prefix)
        check_prefix(start_after)
        check = ListingCheck(self._what("LIST", prefix), prefix, start_after)
        token = ""
        while True:
            page = self._page(prefix, start_after, token)
            check.take(page)
            yield from page.entries
            if page.is_last:
                return
            token = page.token

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        what = self._what("DELETE", key)
        with self._exchange(what, "DELETE", f"/{check_key(key)}") as response:
            if response.status not in (200, 204):
                responses.raise_refusal(what, response)
            response.read()

    def presign_get(self, key: str, expires_seconds: int) -> str:
        """See `Presigner.presign_get`."""
        if not 1 <= expires_seconds <= PRESIGN_SECONDS_MAX:
            raise BadInputError(
                f"expiry of {expires_seconds} s: expected 1 to {PRESIGN_SECONDS_MAX}"
            )
        url = self._url(f"/{check_key(key)}")
        return self._signer.presigned("GET", url, self._now(), expires_seconds)

    def close(self) -> None:
        """Close idle connections."""
        self._connections.close()

    def _page(self, prefix: str, start_after: str, token: str) -> ListedPage:
        """The page of a listing that a token leads to; the first one if it is empty."""
        query = {
            "list-type": "2",
            "max-keys": str(self._page_count),
            "prefix": prefix,
            "start-after": start_after,
            **({"continuation-token": token} if token else {}),
        }
        # Sorted, as they are signed: not every server sorts before it verifies.
        text = "&".join(f"{name}={quote(query[name], safe='')}" for name in sorted(query))
        what = self._what("LIST", prefix)
        with self._exchange(what, "GET", f"?{text}") as response:
            if response.status != 200:
                responses.raise_refusal(what, response)
            return parse_page(what, prefix, responses.read_document(what, response))

    def _confirm_missing(self, key: str) -> None:
        """Return if the store says in words that it has no such object.

        An answer to HEAD has no body, so its 404 may as well come from a proxy, or mean the bucket.
        """
        what = self._what("GET", key)
        first = responses.range_header(ByteRange(0, 1))
        with self._exchange(what, "GET", f"/{check_key(key)}", first) as response:
            if response.status in (200, 206, 416):  # 416: it is empty
                raise UnavailableError(
                    f"{what}: the store answered 404 to HEAD, and {response.status} to GET"
                )
            with contextlib.suppress(NotFoundError):
                responses.raise_refusal(what, response)

    def _exchange(
        self,
        what: str,
        method: str,
        target: str,
        headers: Mapping[str, str] = MappingProxyType({}),
        body: memoryview | None = None,
    ) -> AbstractContextManager[HTTPResponse]:
        """A signed request; ``target`` is what follows the bucket's own URL."""
        url = self._url(target)
        now = self._now()
        content_sha256 = headers.get("x-amz-content-sha256", UNSIGNED_PAYLOAD)
        sent = {
            **headers,
            "Host": url.netloc,
            "x-amz-content-sha256": content_sha256,
            "x-amz-date": amz_date(now),
        }
        sent["Authorization"] = self._signer.authorization(method, url, sent, content_sha256, now)
        path_and_query = url._replace(scheme="", netloc="").geturl()
        return self._connections.exchange(what, method, path_and_query, sent, body)

    def _url(self, target: str) -> SplitResult:
        return urlsplit(self._base_url + target)

    def _what(self, operation: str, key: str) -> str:
        return f"{operation} {key} in bucket {self._bucket.bucket}"


def _check_stored_checksum(what: str, response: HTTPResponse, sent: Mapping[str, str]) -> None:
    """Compare the checksum that was sent with the one the server says it stored, if it does."""
    for name, value in sent.items():
        stored = response.getheader(name) if name.startswith("x-amz-checksum-") else None
        if stored is not None and stored != value:
            raise DamagedDataError(f"{what}: sent {name} {value}, the store answers {stored}")


_store: type[ObjectStore] = S3Store
_presigner: type[Presigner] = S3Store
