"""A store, or a proxy before it, that answers in drops, or other bytes than those of the object."""

import gzip
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from libs.errors import DamagedDataError, UnavailableError
from libs.ranges import ByteRange
from libs.rest.connections import Timeouts
from libs.store.presigned import PresignedReader
from libs.store.s3 import S3Bucket, S3Store
from tests.support.scripted_s3 import BODY, WHOLE, partial, reply, serving
from tests.unit.store.test_s3_faults import OPERATIONS

#: Each drop comes far sooner than the time for a piece ends; the whole would take minutes.
DROP_SECONDS = 0.02
TIMEOUTS = Timeouts(connect_seconds=1, read_seconds=5, total_seconds=0.4)


class Dripping:
    """Sends an answer byte by byte, or takes a request so."""

    def __init__(self, answer: bytes, at_once: int) -> None:
        self._answer, self._at_once = answer, at_once
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stopping = threading.Event()
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._listener.accept()[0] as connection:
            connection.recv(1 << 16)
            try:
                connection.sendall(self._answer[: self._at_once])
                for at in range(self._at_once, len(self._answer)):
                    if self._stopping.wait(DROP_SECONDS):
                        return
                    connection.sendall(self._answer[at : at + 1])
                self._stopping.wait(10)
            except OSError:  # the client has given up, as it should
                return

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._listener.close()


@contextmanager
def dripping(answer: bytes, at_once: int) -> Iterator[Dripping]:
    server = Dripping(answer, at_once)
    try:
        yield server
    finally:
        server.close()


LONG = bytes(4000)
HEAD = reply("200 OK", LONG).index(b"\r\n\r\n") + 4


@pytest.mark.parametrize("at_once", [0, HEAD], ids=["its head", "its body"])
def test_an_answer_that_drips_ends_at_the_deadline_of_the_exchange(at_once: int) -> None:
    with dripping(reply("200 OK", LONG), at_once) as server:
        store = S3Store(
            S3Bucket(endpoint=server.endpoint, bucket="b", access_key="a", secret_key="s"),
            timeouts=TIMEOUTS,
        )
        begun = time.monotonic()
        with pytest.raises(UnavailableError, match=r"within 0\.4 s"):
            store.get("key")
        assert time.monotonic() - begun < 3
        store.close()


def test_a_range_that_drips_into_a_buffer_ends_at_the_deadline() -> None:
    stated = f"bytes 0-{len(LONG) - 1}/{len(LONG)}"
    with dripping(partial(LONG, stated), HEAD + 60) as server:
        reader = PresignedReader(TIMEOUTS)
        begun = time.monotonic()
        with pytest.raises(UnavailableError, match=r"within 0\.4 s"):
            reader.get_into(
                f"{server.endpoint}/b/key", ByteRange(0, len(LONG)), memoryview(bytearray(LONG))
            )
        assert time.monotonic() - begun < 3
        reader.close()


def test_each_exchange_of_a_kept_connection_has_a_deadline_of_its_own() -> None:
    answers = [reply("200 OK", BODY)] * 4
    with serving(*answers, keep_open=True) as store:
        for _ in answers:
            assert store.get("key") == BODY


ENCODED = gzip.compress(BODY)


@pytest.mark.parametrize("encoding", ["gzip", "br", "aws-chunked, gzip"])
@pytest.mark.parametrize("operation", ["get", "get_range", "get_into", "list"])
def test_an_encoded_answer_is_no_damage(operation: str, encoding: str) -> None:
    if "range" in operation or "into" in operation:
        stated = f"Content-Range: bytes 0-{len(BODY) - 1}/{len(BODY)}"
        answer = reply("206 Partial Content", ENCODED, stated, f"Content-Encoding: {encoding}")
    else:
        answer = reply("200 OK", ENCODED, f"Content-Encoding: {encoding}")
    with serving(answer) as store, pytest.raises(UnavailableError, match="encod") as refused:
        OPERATIONS[operation](store)
    assert not isinstance(refused.value, DamagedDataError)


def test_the_size_of_an_encoded_object_is_not_believed() -> None:
    modified = "Last-Modified: Mon, 30 Nov 2026 12:00:00 GMT"
    answer = reply("200 OK", b"", "Content-Encoding: gzip", modified, length=0)
    with serving(answer) as store, pytest.raises(UnavailableError, match="encod"):
        store.stat("key")


def test_an_identity_encoding_is_none() -> None:
    with serving(reply("200 OK", BODY, "Content-Encoding: identity")) as store:
        assert store.get("key") == BODY
    with serving(partial()) as store:
        assert store.get_range("key", WHOLE) == BODY
