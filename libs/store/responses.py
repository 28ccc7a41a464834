"""Reading the responses of S3 servers: whole bodies, exact ranges, and errors as Backcast's own."""

import re
from collections.abc import Mapping
from http.client import HTTPResponse, IncompleteRead
from types import MappingProxyType
from typing import NoReturn
from xml.etree import ElementTree as ET

from libs.errors import (
    BackcastError,
    ConfigurationError,
    ConflictError,
    DamagedDataError,
    ForbiddenError,
    NotFoundError,
    OutOfSpaceError,
    UnavailableError,
)
from libs.ranges import ByteRange
from libs.store.port import OBJECT_SIZE_BYTES_MAX, ChecksumRefusedError

#: An error document or a page of 1,000 keys is far smaller.
_DOCUMENT_SIZE_BYTES_MAX = 4 << 20

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(?:\d{1,19}|\*)")

# The error codes that say more than their HTTP status does.
_BY_CODE: Mapping[str, type[BackcastError]] = MappingProxyType(
    {
        "NoSuchKey": NotFoundError,
        "NoSuchBucket": ConfigurationError,
        "AuthorizationHeaderMalformed": ConfigurationError,  # the region is not the bucket's
        "XMinioStorageFull": OutOfSpaceError,
        "XMinioAdminBucketQuotaExceeded": OutOfSpaceError,
        "QuotaExceeded": OutOfSpaceError,
        "BadDigest": ChecksumRefusedError,
        "XAmzContentChecksumMismatch": ChecksumRefusedError,
        "XAmzContentSHA256Mismatch": ChecksumRefusedError,
        "IncompleteBody": UnavailableError,
        "RequestTimeout": UnavailableError,
    }
)

_BY_STATUS: Mapping[int, type[BackcastError]] = MappingProxyType(
    {
        401: ForbiddenError,
        403: ForbiddenError,
        # Only NoSuchKey proves that an object is missing: a 404 page of a proxy must not pass as
        # data loss.
        404: UnavailableError,
        408: UnavailableError,
        409: UnavailableError,
        412: ConflictError,
        416: DamagedDataError,
        429: UnavailableError,
        501: ConfigurationError,
        507: OutOfSpaceError,
    }
)

#: MinIO says "Please delete a few objects to proceed", which is how data are lost.
_WAY_OUT_OF_SPACE = (
    "Enlarge the store or its quota; expiring snapshots frees more once it takes objects again. "
    "Delete no object by hand"
)
#: What refuses whoever signed the request, and the setting to look at.
_CHECK_KEYS = (
    "check the access key and the secret key (files of S3_ACCESS_KEY_FILE and S3_SECRET_KEY_FILE, "
    "or SECOND_S3_… of the second store), and what this access key may do"
)
_WAYS_OUT: Mapping[str, str] = MappingProxyType(
    {
        "InvalidAccessKeyId": "the store does not know the access key: check the file of "
        "S3_ACCESS_KEY_FILE (SECOND_S3_ACCESS_KEY_FILE of the second store)",
        "SignatureDoesNotMatch": "the secret key is not that of the access key: check the file of "
        "S3_SECRET_KEY_FILE (SECOND_S3_SECRET_KEY_FILE of the second store)",
        "RequestTimeTooSkewed": "the clock of this machine or of the store is wrong: set it",
    }
)


def raise_refusal(what: str, response: HTTPResponse) -> NoReturn:
    """Raise the error that a response with an unexpected status stands for.

    Args:
        what: the operation and the object, for the message.
        response: of any status; its body is read as an S3 error document if it is one.
    """
    code, message = _error_document(response)
    status = response.status
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status)
    if kind is None:
        kind = UnavailableError if status >= 500 else ConfigurationError
    text = f"{what}: the store answered {status} {code or response.reason}: {message}"
    if kind is OutOfSpaceError:
        raise kind(f"{text} {_WAY_OUT_OF_SPACE}")
    way_out = _WAYS_OUT.get(code, "")
    if status == 403 and not way_out and "expired" not in message:  # a signed URL's time is over
        way_out = _CHECK_KEYS
    raise kind(f"{text}; {way_out}" if way_out else text)


def refuse_encoding(what: str, response: HTTPResponse) -> None:
    """Refuse an answer that was encoded on its way: its bytes are not the object's.

    It is asked for as it is (`Accept-Encoding: identity`). A proxy that compresses nevertheless
    must not pass as damage of what is stored.

    Raises:
        UnavailableError: the answer has a content encoding.
    """
    encoding = response.getheader("Content-Encoding", "").strip().lower()
    if encoding not in {"", "identity"}:
        raise UnavailableError(
            f"{what}: the answer is encoded ({encoding[:40]!r}), which nobody asked for; keep "
            f"proxies in front of the store from changing what it answers"
        )


def read_whole(what: str, response: HTTPResponse) -> bytes:
    """The body of a successful GET.

    Raises:
        UnavailableError: the server does not say how long the body is, or it is encoded.
        DamagedDataError: it is longer than an object may be.
        http.client.IncompleteRead: the body was cut off; the connection pool translates it.
        BackcastError: the error that the response stands for.
    """
    if response.status != 200:
        raise_refusal(what, response)
    refuse_encoding(what, response)
    if response.length is None:  # chunked: nothing tells whether it is whole
        raise UnavailableError(f"{what}: the store did not state the length of the object")
    if response.length > OBJECT_SIZE_BYTES_MAX:
        raise DamagedDataError(
            f"{what}: object of {response.length} bytes, expected at most {OBJECT_SIZE_BYTES_MAX}"
        )
    return response.read()


def range_header(wanted: ByteRange) -> dict[str, str]:
    """The request header that asks for ``wanted``, which is not empty."""
    return {"Range": f"bytes={wanted.start}-{wanted.end - 1}"}


def read_range(what: str, response: HTTPResponse, wanted: ByteRange) -> bytes:
    """The body of a ranged GET: exactly ``wanted``.

    Raises:
        DamagedDataError: the response is for other bytes, which means that the object is shorter.
        http.client.IncompleteRead: the body was cut off; the connection pool translates it.
    """
    _check_range(what, response, wanted)
    return response.read()


def read_range_into(
    what: str, response: HTTPResponse, wanted: ByteRange, buffer: memoryview
) -> None:
    """Like `read_range`, into the caller's buffer.

    Raises:
        DamagedDataError: the response is for other bytes, which means that the object is shorter.
        http.client.IncompleteRead: the body was cut off; the connection pool translates it.
    """
    _check_range(what, response, wanted)
    filled = 0
    while filled < wanted.length:
        count = response.readinto(buffer[filled:])
        if count == 0:
            raise IncompleteRead(b"", wanted.length - filled)
        filled += count


def read_document(what: str, response: HTTPResponse) -> ET.Element:
    """The body of a response that is an XML document.

    Raises:
        UnavailableError: it is not XML, or absurdly long; a proxy answered instead of the store.
    """
    refuse_encoding(what, response)
    try:
        # The standard parser is safe here: expat refuses entity expansion and the size is bounded.
        return ET.fromstring(_read_bounded(response))  # noqa: S314 -- see above
    except ET.ParseError as error:
        raise UnavailableError(f"{what}: the answer is not an S3 document: {error}") from error


def _check_range(what: str, response: HTTPResponse, wanted: ByteRange) -> None:
    if response.status not in (200, 206):  # a 200 is for the whole object and fails the next check
        raise_refusal(what, response)
    refuse_encoding(what, response)
    stated = response.getheader("Content-Range", "")
    if response.status == 206 and not stated:
        raise UnavailableError(f"{what}: the answer does not say which bytes it has")
    match = _CONTENT_RANGE.fullmatch(stated)
    expected = (wanted.start, wanted.end - 1)
    if match is None or (int(match[1]), int(match[2])) != expected:
        raise DamagedDataError(
            f"{what}: expected bytes {expected[0]}-{expected[1]}, "
            f"the store gives {stated or 'no range'!r}; the object is not what it must be"
        )
    if response.length != wanted.length:
        raise DamagedDataError(
            f"{what}: expected a body of {wanted.length} bytes, got {response.length}"
        )


def _error_document(response: HTTPResponse) -> tuple[str, str]:
    """Code and message of an S3 error document; empty and the reason if there is none.

    Nothing else of the document is used: it can hold the access key and the string that was signed.
    """
    try:
        root = ET.fromstring(_read_bounded(response))  # noqa: S314 -- as in read_document
    except ET.ParseError:
        return "", "without an S3 error document"
    return root.findtext("{*}Code", ""), root.findtext("{*}Message", "")[:200]


def _read_bounded(response: HTTPResponse) -> bytes:
    return response.read(_DOCUMENT_SIZE_BYTES_MAX)
