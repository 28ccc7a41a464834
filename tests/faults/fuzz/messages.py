"""Targets: what peers send — events, spans, answers of the store and of services — and texts."""

import base64
import http.client
import io
import json
import struct
from uuid import UUID

from libs.errors import (
    BackcastError,
    BadEventError,
    BadInputError,
    ConfigurationError,
    DamagedDataError,
    UnavailableError,
)
from libs.events.codec import decode, encode
from libs.events.envelope import from_headers, to_headers
from libs.events.mac import event_mac, is_authentic
from libs.events.record import from_record, to_record
from libs.events.registry import REGISTRY
from libs.events.topics import BLOCK_CHANGES, NOTIFICATIONS, SNAPSHOTS
from libs.keys.kek import KeyEncryptionKey
from libs.points import RecoveryPoint
from libs.ranges import ByteRange, ChunkRun, count_chunks, pack_runs, unpack_runs
from libs.rest.auth import Tokens
from libs.rest.client import problem_error
from libs.rest.connections import ConnectionPool, Origin
from libs.restoring.fetch import fetches_of
from libs.restoring.plan import decode_window, named_runs
from libs.runtime.settings import Secret, load, variables
from libs.spans import messages as spans
from libs.store.s3 import S3Bucket, S3Store
from services.chunker.settings import Settings
from services.restore.downloads.byte_ranges import parse_range
from services.restore.events.cursors import TenantCursors
from tests.faults.fuzz.target import SEPARATOR, Target, parts_of, text_of
from tests.golden.make_events import SAMPLES, envelope_of

_TOKEN = bytes(32)
_EVENTS = REGISTRY.events
_CURSORS = TenantCursors(KeyEncryptionKey(bytes(32)), "acme")


def _read_event(data: bytes) -> None:
    """First byte: which event; the rest is its value."""
    event = _EVENTS[data[0] % len(_EVENTS)] if data else _EVENTS[0]
    assert encode(decode(event.name, event.version, data[1:])) == data[1:]


def _event_seeds() -> list[bytes]:
    position = {event.cls: number for number, event in enumerate(_EVENTS)}
    return [bytes([position[type(event)]]) + encode(event) for event in SAMPLES]


def _read_record(data: bytes) -> None:
    """Value, then names and values of headers in turn."""
    value, *texts = data.split(SEPARATOR, 40)
    names, values = texts[::2], texts[1::2]
    headers = [(text_of(name), text) for name, text in zip(names, values, strict=False)]
    topic = NOTIFICATIONS if value.startswith(b"{") else BLOCK_CHANGES
    envelope, event = from_record(topic, headers, value)
    again = to_record(envelope, encode(event))
    assert from_record(again.topic, again.headers, again.value) == (envelope, event)


def _record_seeds() -> list[bytes]:
    seeds = []
    for event in SAMPLES:
        record = to_record(envelope_of(event), encode(event))
        if record.topic in (BLOCK_CHANGES, NOTIFICATIONS):
            texts = [part for name, text in record.headers for part in (name.encode(), text)]
            seeds.append(SEPARATOR.join([record.value, *texts]))
    return seeds


def _read_headers(data: bytes) -> None:
    texts = data.split(SEPARATOR, 60)
    names, values = texts[::2], texts[1::2]
    headers = [(text_of(name), text) for name, text in zip(names, values, strict=False)]
    envelope = from_headers(headers)
    assert from_headers(to_headers(envelope)) == envelope


def _header_seeds() -> list[bytes]:
    headers = to_headers(envelope_of(SAMPLES[0]))
    return [SEPARATOR.join(part for name, text in headers for part in (name.encode(), text))]


_ENVELOPE = envelope_of(SAMPLES[0])
_VALUE = encode(SAMPLES[0])
_MAC = event_mac(_TOKEN, _ENVELOPE, _VALUE)


def _read_mac(data: bytes) -> None:
    """A MAC and a value: only the agent's own pair is authentic."""
    mac, value = data[:32], data[32:]
    try:
        envelope = type(_ENVELOPE)(
            **{name: getattr(_ENVELOPE, name) for name in _ENVELOPE.__slots__} | {"mac": mac}
        )
    except BadInputError:
        return
    if is_authentic(_TOKEN, envelope, value):
        assert (mac, value) == (_MAC, _VALUE), "a forged event was believed"


def _read_requests(data: bytes) -> None:
    """What a span server reads from a chunker: hello, then requests with their bodies."""
    stream = io.BytesIO(data)
    hello = stream.read(spans.HELLO_SIZE_BYTES)
    if len(hello) < spans.HELLO_SIZE_BYTES:
        return
    assert spans.pack_hello(spans.unpack_hello(hello)) == hello
    while len(head := stream.read(spans.REQUEST_SIZE_BYTES)) == spans.REQUEST_SIZE_BYTES:
        request = spans.unpack_request(head)
        assert request.body_size_bytes <= spans.CHUNKS_PER_SPAN_MAX * 12
        body = stream.read(request.body_size_bytes)
        if len(body) < request.body_size_bytes:
            return
        if request.kind is spans.Kind.WANT:
            wanted = spans.unpack_wanted(request, body)
            assert all(0 <= position < request.count for position in wanted)
        elif request.kind is spans.Kind.REREAD:
            runs = spans.unpack_reread(body, 1 << 20)
            assert sum(run.count for run in runs) <= spans.CHUNKS_PER_SPAN_MAX


def _request_seeds() -> list[bytes]:
    hello = spans.pack_hello(spans.Hello(UUID(int=1), UUID(int=2), _TOKEN))
    return [
        hello
        + spans.pack_want(3, [True, False] * 60)
        + spans.pack_want(4, [False])
        + spans.pack_reread([ChunkRun(1, 2), ChunkRun(9, 200)])
    ]


def _read_reply(data: bytes) -> None:
    raw = data[: spans.REPLY_SIZE_BYTES].ljust(spans.REPLY_SIZE_BYTES, b"\0")
    reply = spans.unpack_reply(raw, 1 << 24)
    assert reply.length <= 1 << 24
    assert spans.pack_reply(reply) == raw


def _read_runs(data: bytes) -> None:
    count_chunks(data)
    runs = unpack_runs(data, 1 << 44)
    assert pack_runs(runs) == data


class _Wire:
    """A socket whose other end has said all that it will ever say."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def sendall(self, data: object) -> None:
        """Nobody listens."""

    def settimeout(self, seconds: float | None) -> None:
        """Everything is there already."""

    def makefile(self, *_: object, **__: object) -> io.BytesIO:
        return io.BytesIO(self._answer)

    def close(self) -> None:
        """Nothing to close."""


class _Answering(ConnectionPool):
    """Connections to a server that answers everything with the same bytes."""

    answer = b""

    def _connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("store")
        connection.sock = _Wire(self.answer)
        return connection

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        connection.close()


_STORE = S3Store(
    S3Bucket(endpoint="http://store:1", bucket="bucket", access_key="a", secret_key="s"),
    page_count=10,
)
_POOL = _STORE._connections = _Answering(Origin.parse("http://store:1"))
_WANTED = ByteRange(0, 5)


def _read_s3(data: bytes) -> None:
    """First byte: the request; the rest is the whole answer of the server."""
    _POOL.answer = data[1:]
    match data[0] % 6 if data else 0:
        case 0:
            assert len(_STORE.get("packs/a")) <= len(data)
        case 1:
            assert len(_STORE.get_range("packs/a", _WANTED)) == _WANTED.length
        case 2:
            _STORE.get_into("packs/a", _WANTED, memoryview(bytearray(_WANTED.length)))
        case 3:
            for _ in _STORE.list("packs/"):  # every page is the same, so the second is refused
                pass
        case 4:
            _STORE.put("packs/a", b"body")
        case _:
            _STORE.delete("packs/a")


_LISTING = (
    b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>packs/a</Key><Size>5</Size>"
    b"<LastModified>2026-11-22T10:00:00Z</LastModified></Contents></ListBucketResult>"
)
_REFUSAL = b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>"


def _s3_seeds() -> list[bytes]:
    def answer(request: int, status: bytes, body: bytes, *headers: bytes) -> bytes:
        head = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers]
        return bytes([request]) + b"\r\n".join([*head, b"", body])

    part = b"Content-Range: bytes 0-4/9"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    return [
        answer(0, b"200 OK", b"hello"),
        answer(1, b"206 Partial Content", b"hello", part),
        answer(2, b"206 Partial Content", b"hello", part),
        answer(3, b"200 OK", _LISTING),
        answer(4, b"200 OK", b"", b"x-amz-checksum-crc32c: Jj/JUA=="),
        answer(5, b"204 No Content", b""),
        *(answer(request, b"404 Not Found", _REFUSAL) for request in range(6)),
        *(bytes([request]) + chunked for request in range(4)),
    ]


def _read_plan(data: bytes) -> None:
    """Columns and numbers of a window, put into the document that a service sends."""
    frames, numbers, *columns = parts_of(data, 6)
    entries = [list(entry) for entry in _FRAME_ROW.iter_unpack(frames[: len(frames) // 16 * 16])]
    first, count, size = _WINDOW_HEAD.unpack(numbers[:16].ljust(16, b"\0"))
    pack = _PACK_DOCUMENT | {"size_bytes": size, "frames": entries}
    names = ("runs", "ids", "pack_ordinals", "places")
    document = {"first_chunk": first, "chunk_count": count, "packs": [pack]} | {
        name: base64.b64encode(column).decode() for name, column in zip(names, columns, strict=True)
    }
    _read_window(json.dumps(document).encode())


def _read_window(data: bytes) -> None:
    """Any answer at all, which a service of another version may send."""
    try:
        window = decode_window(data, 0, 2**47)
    except UnavailableError:  # no JSON
        return
    runs = named_runs(window)
    fetches = fetches_of(window, runs)
    assert sum(len(frame.chunks) for fetch in fetches for frame in fetch.frames) == sum(
        run.count for run in runs
    )


_FRAME_ROW = struct.Struct("<4I")
_WINDOW_HEAD = struct.Struct("<IQI")
_PACK_DOCUMENT = {
    "generation": "0" * 31 + "3",
    "url": "http://store/packs/a?signature=x",
    "size_bytes": 70_000,
    "key": base64.b64encode(bytes(32)).decode(),
    "frames": [[0, 64, 65_553, 65_536]],
}
_COLUMNS = (pack_runs([ChunkRun(2, 1)]), b"i" * 32, bytes(2), bytes(4))


def _plan_seeds() -> list[bytes]:
    frames = _FRAME_ROW.pack(0, 64, 65_553, 65_536)
    return [SEPARATOR.join((frames, _WINDOW_HEAD.pack(0, 4, 70_000), *_COLUMNS))]


def _plan_document_seeds() -> list[bytes]:
    runs, ids, ordinals, places = (base64.b64encode(column).decode() for column in _COLUMNS)
    window = {"first_chunk": 0, "chunk_count": 4, "packs": [_PACK_DOCUMENT]} | {
        "runs": runs, "ids": ids, "pack_ordinals": ordinals, "places": places
    }  # fmt: skip
    return [json.dumps(window).encode()]


def _read_problem(data: bytes) -> None:
    error = problem_error(500, data, "GET /v1")
    assert isinstance(error, BackcastError)


_SECRET_FILES = [
    variable.name for variable in variables(Settings, "chunker") if variable.kind is Secret
]


def _read_settings(data: bytes) -> None:
    environ = dict.fromkeys(_SECRET_FILES, "/proc/self/comm")
    for line in data.decode(errors="surrogateescape").split("\n"):  # as os.environ has it
        name, _, value = line.partition("=")
        if not name.endswith("_FILE") and "\0" not in line:  # a file may be anything, or hang
            environ[name] = value
    load(Settings, "chunker", environ)


def _settings_seeds() -> list[bytes]:
    values = {
        "LANE_COUNT": "3",
        "SESSION_DEADLINE_SECONDS": "1.5",
        "KAFKA_BOOTSTRAP": "a:1,b:2",
        "S3_ENDPOINT": "http://a:1",
        "LISTEN": "127.0.0.1:0",
        "S3_BUCKET": "b",
        "SECOND_S3_ENDPOINT": "http://b:1",
        "SECOND_S3_BUCKET": "c",
    }
    return ["\n".join(f"BACKCAST_CHUNKER_{name}={values[name]}" for name in values).encode()]


def _read_tokens(data: bytes) -> None:
    Tokens(text_of(data))


def _read_point(data: bytes) -> None:
    RecoveryPoint.parse(text_of(data))


def _read_range_header(data: bytes) -> None:
    found = parse_range(text_of(data), 1 << 40)
    if isinstance(found, ByteRange):
        assert found.end <= 1 << 40


def _read_cursor(data: bytes) -> None:
    text, topic = parts_of(data, 2)
    _CURSORS.open(text_of(text), (text_of(topic),) if topic else ())


MESSAGES = (
    Target("event", _read_event, _event_seeds, (BadEventError,)),
    Target("record", _read_record, _record_seeds, (BadEventError,)),
    Target("headers", _read_headers, _header_seeds, (BadEventError,)),
    Target("event-mac", _read_mac, lambda: [_MAC + _VALUE], ()),
    Target("span-requests", _read_requests, _request_seeds, (DamagedDataError, BadInputError)),
    Target(
        "span-reply",
        _read_reply,
        lambda: [spans.pack_reply(spans.Reply(spans.Status.OK, 1 << 20))],
        (DamagedDataError,),
        16,
    ),
    Target("runs", _read_runs, lambda: [pack_runs([ChunkRun(2, 3)])], (BadInputError,), 1200),
    Target("s3-answer", _read_s3, _s3_seeds, (BackcastError,), cost=4),
    Target("restore-plan", _read_plan, _plan_seeds, (DamagedDataError,)),
    Target("restore-plan-document", _read_window, _plan_document_seeds, (DamagedDataError,)),
    Target(
        "problem",
        _read_problem,
        lambda: [b'{"code": "not-found", "detail": "volume x: there is none"}'],
        (),
    ),
    # Names are compared with the known ones, in time that grows with the square of their length.
    Target("settings", _read_settings, _settings_seeds, (ConfigurationError,), 400, 20),
    Target(
        "tokens",
        _read_tokens,
        lambda: [b'[{"sha256":"' + b"a" * 64 + b'","tenant":"*","role":"admin","restore":true}]'],
        (ConfigurationError,),
    ),
    Target(
        "recovery-point",
        _read_point,
        lambda: [b"vm@latest", b"vm@12", b"vm@2026-11-22T10:00:00Z", b"vm@-15m"],
        (BadInputError,),
        256,
    ),
    Target("range-header", _read_range_header, lambda: [b"bytes=0-99", b"bytes=-5"], (), 256),
    Target(
        "event-cursor",
        _read_cursor,
        lambda: [_CURSORS.seal({SNAPSHOTS: 7}).encode(), b"7" + SEPARATOR + SNAPSHOTS.encode()],
        (BadInputError,),
        256,
    ),
)
