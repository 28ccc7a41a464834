"""Answers that a real S3 server gives only when something is wrong: each becomes the right error.

A server in a thread plays them; the real servers are in tests/contract/test_store_s3.py.
"""

import select
from collections.abc import Callable

import pytest

from libs.errors import (
    BackcastError,
    ConfigurationError,
    DamagedDataError,
    ForbiddenError,
    NotFoundError,
    OutOfSpaceError,
    UnavailableError,
)
from libs.rest.connections import Origin, Timeouts
from libs.store.port import ChecksumRefusedError
from libs.store.s3 import S3Bucket, S3Store
from tests.support.scripted_s3 import (
    ACCESS_KEY,
    BODY,
    WHOLE,
    ScriptedServer,
    partial,
    refusal,
    reply,
    serving,
)

OPERATIONS: dict[str, Callable[[S3Store], object]] = {
    "put": lambda store: store.put("key", BODY),
    "get": lambda store: store.get("key"),
    "get_range": lambda store: store.get_range("key", WHOLE),
    "get_into": lambda store: store.get_into("key", WHOLE, memoryview(bytearray(len(BODY)))),
    "stat": lambda store: store.stat("key"),
    "list": lambda store: list(store.list("")),
    "delete": lambda store: store.delete("key"),
}

REFUSALS = [
    ("500 Internal Server Error", "InternalError", UnavailableError),
    ("503 Service Unavailable", "SlowDown", UnavailableError),
    ("503 Service Unavailable", "XMinioServerNotInitialized", UnavailableError),
    ("429 Too Many Requests", "TooManyRequests", UnavailableError),
    ("409 Conflict", "OperationAborted", UnavailableError),
    ("400 Bad Request", "RequestTimeout", UnavailableError),
    ("400 Bad Request", "IncompleteBody", UnavailableError),
    ("400 Bad Request", "BadDigest", ChecksumRefusedError),
    ("400 Bad Request", "XAmzContentChecksumMismatch", ChecksumRefusedError),
    ("507 Insufficient Storage", "XMinioStorageFull", OutOfSpaceError),
    ("400 Bad Request", "XMinioAdminBucketQuotaExceeded", OutOfSpaceError),
    ("403 Forbidden", "AccessDenied", ForbiddenError),
    ("403 Forbidden", "RequestTimeTooSkewed", ForbiddenError),
    ("404 Not Found", "NoSuchBucket", ConfigurationError),
    ("400 Bad Request", "AuthorizationHeaderMalformed", ConfigurationError),
    ("501 Not Implemented", "NotImplemented", ConfigurationError),
    ("301 Moved Permanently", "PermanentRedirect", ConfigurationError),
]


@pytest.mark.parametrize("operation", sorted(OPERATIONS.keys() - {"stat"}))  # HEAD has no body
@pytest.mark.parametrize(("status", "code", "expected"), REFUSALS)
def test_a_refusal_becomes_its_error(
    operation: str, status: str, code: str, expected: type[BackcastError]
) -> None:
    with serving(refusal(status, code)) as store, pytest.raises(BackcastError) as raised:
        OPERATIONS[operation](store)
    assert type(raised.value) is expected
    assert code in str(raised.value)
    assert ("Delete no object by hand" in str(raised.value)) == (expected is OutOfSpaceError)
    assert ACCESS_KEY not in str(raised.value)
    assert "top-secret" not in repr(raised.value)


@pytest.mark.parametrize("operation", ["get", "get_range", "get_into"])
def test_a_missing_object_is_told_only_by_the_store(operation: str) -> None:
    with serving(refusal("404 Not Found", "NoSuchKey")) as store, pytest.raises(NotFoundError):
        OPERATIONS[operation](store)
    page_of_a_proxy = reply("404 Not Found", b"<html><body>default backend - 404")
    with serving(page_of_a_proxy) as store, pytest.raises(UnavailableError):
        OPERATIONS[operation](store)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="connection closed"),
        pytest.param(b"HTTP/1.1 200", id="status line cut off"),
        pytest.param(b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Le", id="header cut off"),
        pytest.param(b"220 smtp.example.org ready\r\n", id="not HTTP"),
        pytest.param(None, id="silence"),
    ],
)
def test_no_answer_is_unavailable(operation: str, answer: bytes | None) -> None:
    answers = () if answer is None else (answer,)
    with serving(*answers) as store, pytest.raises(UnavailableError):
        OPERATIONS[operation](store)


def test_a_port_where_nobody_listens_is_unavailable() -> None:
    with serving() as store:
        pass
    for call in OPERATIONS.values():
        with pytest.raises(UnavailableError):
            call(store)


@pytest.mark.parametrize("cut_at", [0, 1, len(BODY) - 1])
@pytest.mark.parametrize("operation", ["get", "get_range", "get_into"])
def test_a_body_that_is_cut_off_is_never_returned(operation: str, cut_at: int) -> None:
    if operation == "get":
        answer = reply("200 OK", BODY[:cut_at], length=len(BODY))
    else:
        content_range = f"Content-Range: bytes 0-{len(BODY) - 1}/{len(BODY)}"
        answer = reply("206 Partial Content", BODY[:cut_at], content_range, length=len(BODY))
    with serving(answer) as store, pytest.raises(UnavailableError):
        OPERATIONS[operation](store)


@pytest.mark.parametrize("operation", ["get_range", "get_into"])
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(reply("200 OK", BODY), id="range ignored"),
        pytest.param(partial(BODY[:-1], "bytes 0-198/199"), id="object shorter"),
        pytest.param(partial(BODY, "bytes 1-200/300"), id="other range"),
        pytest.param(partial(BODY[:-1]), id="body shorter than its range"),
        pytest.param(partial(BODY + b"x"), id="body longer than its range"),
        pytest.param(partial(BODY, "bytes */200"), id="no range in the header"),
        pytest.param(refusal("416 Range Not Satisfiable", "InvalidRange"), id="beyond the end"),
    ],
)
def test_other_bytes_than_asked_for_are_damage(operation: str, answer: bytes) -> None:
    with serving(answer) as store, pytest.raises(DamagedDataError):
        OPERATIONS[operation](store)


def test_a_range_that_fits_is_read() -> None:
    with serving(partial(), partial(), keep_open=True) as store:
        buffer = bytearray(len(BODY))
        store.get_into("key", WHOLE, memoryview(buffer))
        assert store.get_range("key", WHOLE) == BODY == buffer


def test_an_absurd_length_is_refused_before_memory_is_taken() -> None:
    with serving(reply("200 OK", length=1 << 50)) as store, pytest.raises(DamagedDataError):
        store.get("key")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of i",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ],
)
def test_an_object_without_a_length_is_not_read(answer: bytes) -> None:
    with serving(answer) as store, pytest.raises(UnavailableError):
        store.get("key")


@pytest.mark.parametrize(
    "document",
    [
        b"<html>",
        b"",
        b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents/></ListBucketResult>",
        b'<!DOCTYPE x [<!ENTITY a "b">]><ListBucketResult>&undefined;</ListBucketResult>',
    ],
)
def test_a_listing_that_is_none_is_unavailable(document: bytes) -> None:
    with serving(reply("200 OK", document)) as store, pytest.raises(UnavailableError):
        list(store.list(""))


def test_stat_needs_a_size_and_a_date() -> None:
    with serving(reply("200 OK", length=5)) as store, pytest.raises(UnavailableError):
        store.stat("key")


def test_stat_says_missing_only_if_the_store_says_so_in_words() -> None:
    """HEAD has no body: its 404 may be a proxy's, or mean that the whole bucket is gone."""
    gone = reply("404 Not Found")
    with serving(gone, refusal("404 Not Found", "NoSuchKey"), keep_open=True) as store:
        assert store.stat("key") is None


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        pytest.param(reply("404 Not Found", b"default backend"), UnavailableError, id="proxy"),
        pytest.param(
            refusal("404 Not Found", "NoSuchBucket"), ConfigurationError, id="bucket is gone"
        ),
        pytest.param(refusal("403 Forbidden", "AccessDenied"), ForbiddenError, id="no right"),
        pytest.param(refusal("503 Slow Down", "SlowDown"), UnavailableError, id="busy"),
        pytest.param(partial(b"x", "bytes 0-0/200"), UnavailableError, id="it is there"),
        pytest.param(
            refusal("416 Range", "InvalidRange"), UnavailableError, id="it is there, empty"
        ),
    ],
)
def test_a_404_that_does_not_mean_the_object_is_an_error(
    second: bytes, expected: type[BackcastError]
) -> None:
    answers = (reply("404 Not Found"), second)
    with serving(*answers, keep_open=True) as store, pytest.raises(BackcastError) as raised:
        store.stat("key")
    assert type(raised.value) is expected


def test_a_server_that_refuses_before_the_body_ends_is_heard() -> None:
    refused = refusal("403 Forbidden", "AccessDenied")
    with serving(refused, read_body=False) as store, pytest.raises(BackcastError) as raised:
        store.put("key", bytes(64 << 20))
    # Depending on which packet is first, the answer or the broken connection is what is seen.
    assert isinstance(raised.value, ForbiddenError | UnavailableError)


def test_a_checksum_that_the_store_reports_otherwise_is_damage() -> None:
    answer = reply("200 OK", b"", "x-amz-checksum-crc32c: AAAAAA==")
    with serving(answer) as store, pytest.raises(DamagedDataError):
        store.put("key", BODY)


def test_connections_are_kept_after_answers_and_refusals_and_dropped_after_faults() -> None:
    answers = [
        reply("200 OK"),
        refusal("404 Not Found", "NoSuchKey"),
        refusal("503 Service Unavailable", "SlowDown"),
        reply("200 OK", BODY),
        reply("200 OK", BODY[:9], length=len(BODY)),  # then silence: the connection is of no use
        reply("200 OK", BODY),
    ]
    with ScriptedServer(*answers) as server:
        bucket = S3Bucket(endpoint=server.endpoint, bucket="b", access_key="a", secret_key="s")
        store = S3Store(bucket, timeouts=Timeouts(read_seconds=0.3))
        store.put("key", BODY)
        with pytest.raises(NotFoundError):
            store.get("key")
        with pytest.raises(UnavailableError):
            store.get("key")
        assert store.get("key") == BODY
        assert server.connection_count == 1
        with pytest.raises(UnavailableError):
            store.get("key")
        assert store.get("key") == BODY
        assert server.connection_count == 2
        store.close()


def test_a_connection_that_the_server_closed_meanwhile_is_not_used() -> None:
    with serving(reply("200 OK", BODY), reply("200 OK", BODY), keep_open=False) as store:
        assert store.get("key") == BODY
        ((idle, _),) = store._connections._idle
        assert select.select([idle.sock], [], [], 10)[0], "the server has not closed it"
        assert store.get("key") == BODY


@pytest.mark.parametrize(
    "url",
    [
        "",
        "s3.example.org",
        "ftp://s3.example.org",
        "http://",
        "http://s3:99999",
        "http://key:top-secret@s3",
        "http://s3/path",
        "http://s3?x=1",
    ],
)
def test_an_endpoint_is_an_origin_and_nothing_else(url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Origin.parse(url)
    assert "top-secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://s3.example.org", "s3.example.org"),
        ("https://s3.example.org:443/", "s3.example.org"),
        ("https://s3.example.org:80", "s3.example.org:80"),
        ("http://[::1]:9000", "[::1]:9000"),
    ],
)
def test_the_host_header_leaves_out_the_usual_port(url: str, authority: str) -> None:
    assert Origin.parse(url).authority == authority
