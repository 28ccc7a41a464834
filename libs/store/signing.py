"""Signatures of requests to an S3 server (AWS Signature Version 4), in headers and in URLs.

The minio SDK makes the same ones, and costs each process that imports it 0.4 s of CPU: it brings an
administration client and a second cryptography with it. `tests/unit/store/test_signing.py` compares
the two, and has AWS's own examples.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import SplitResult, quote

from libs.store.checksums import UNSIGNED_PAYLOAD

_ALGORITHM = "AWS4-HMAC-SHA256"
_SPACES = re.compile(" +")


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs for one user of one region. Thread-safe."""

    access_key: str
    secret_key: str = field(repr=False)
    region: str

    def authorization(
        self,
        method: str,
        url: SplitResult,
        headers: Mapping[str, str],
        content_sha256: str,
        now: datetime,
    ) -> str:
        """The value of the header Authorization of a request.

        Args:
            method: in capitals.
            url: path and query as they are sent, percent-encoded.
            headers: all that are sent, among them Host and the two below, as the server will see
                them. All are signed.
            content_sha256: what x-amz-content-sha256 says.
            now: what x-amz-date says.
        """
        signed = {name.lower(): _SPACES.sub(" ", value).strip() for name, value in headers.items()}
        names = ";".join(sorted(signed))
        lines = [f"{name}:{signed[name]}" for name in sorted(signed)]
        signature = self._sign(method, url, lines, names, content_sha256, now)
        credential = f"{self.access_key}/{self._scope(now)}"
        return f"{_ALGORITHM} Credential={credential}, SignedHeaders={names}, Signature={signature}"

    def presigned(self, method: str, url: SplitResult, now: datetime, expires_seconds: int) -> str:
        """A URL with which anybody may do one thing until it expires.

        Args:
            method: what it may be used for, in capitals.
            url: of an object; without a query.
            now: when it begins to be good.
            expires_seconds: how long it is good; S3 allows a week.
        """
        assert not url.query
        credential = quote(f"{self.access_key}/{self._scope(now)}", safe="")
        # In the order of their names, as they are signed.
        query = (
            f"X-Amz-Algorithm={_ALGORITHM}&X-Amz-Credential={credential}"
            f"&X-Amz-Date={amz_date(now)}&X-Amz-Expires={expires_seconds}&X-Amz-SignedHeaders=host"
        )
        asked = url._replace(query=query)
        host = [f"host:{url.netloc}"]
        signature = self._sign(method, asked, host, "host", UNSIGNED_PAYLOAD, now)
        return asked._replace(query=f"{query}&X-Amz-Signature={signature}").geturl()

    def _sign(  # noqa: PLR0913 -- the parts of what is signed
        self,
        method: str,
        url: SplitResult,
        header_lines: list[str],
        header_names: str,
        content_sha256: str,
        now: datetime,
    ) -> str:
        pairs = sorted(pair.split("=") for pair in url.query.split("&"))  # by name, then by value
        query = "&".join("=".join(pair) for pair in pairs)
        request = "\n".join(
            [method, url.path or "/", query, *header_lines, "", header_names, content_sha256]
        )
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = "\n".join([_ALGORITHM, amz_date(now), self._scope(now), digest])
        key = f"AWS4{self.secret_key}".encode()
        for part in self._scope(now).split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        return hmac.digest(key, text.encode(), "sha256").hex()

    def _scope(self, now: datetime) -> str:
        return f"{amz_date(now)[:8]}/{self.region}/s3/aws4_request"


def amz_date(moment: datetime) -> str:
    """A moment as x-amz-date has it; the moment has a time zone."""
    return moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
