"""The conversation with what may be QEMU: an answer or an error, and bounds on memory and time."""

import contextlib
import itertools
import math
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from libs.errors import BackcastError, DamagedDataError, SourceError, UnavailableError
from services.change_capture.drivers.qemu import qmp
from services.change_capture.drivers.qemu.cut import let_go
from services.change_capture.drivers.qemu.graph import graph_of
from services.change_capture.drivers.qemu.names import ViewNames
from services.change_capture.drivers.qemu.process import DiskProcess, exports_of
from services.change_capture.drivers.qemu.qmp import QmpConnection
from tests.support.roots import EVERYTHING

GREETING = b'{"QMP": {"version": {"qemu": {"major": 8, "minor": 2}}, "capabilities": []}}\r\n'
OK = b'{"return": {}, "id": 1}\r\n'


@contextmanager
def answering(folder: Path, serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A place where somebody else answers one client."""
    path = Path(f"/proc/self/fd/{os.open(folder, os.O_PATH)}") / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def run() -> None:
            client, _ = server.accept()
            with client:
                try:
                    serve(client)
                except OSError:
                    return

        thread = threading.Thread(target=run)
        thread.start()
        place = os.open(path, os.O_PATH)
        try:
            yield place
        finally:
            os.close(place)
            thread.join()


def saying(*parts: bytes) -> Callable[[socket.socket], None]:
    """Says something at once, and then the next after each command."""

    def serve(client: socket.socket) -> None:
        for part in parts:
            client.sendall(part)
            client.recv(65536)

    return serve


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ([b""], UnavailableError),
        ([b"SSH-2.0-x\n"], DamagedDataError),
        ([b'{"hello": 1}\n'], DamagedDataError),
        ([b"[]\n"], DamagedDataError),
        ([b"[" * 100_000 + b"\n"], DamagedDataError),
        ([b"x" * 4096], UnavailableError),
        ([GREETING, b'{"id": 1}\n'], DamagedDataError),
        ([GREETING, b'{"id": 1, "error": {"class": "X", "desc": "no"}}\n'], SourceError),
    ],
)
def test_what_is_no_qemu_is_an_error(
    tmp_path: Path, said: list[bytes], error: type[BackcastError]
) -> None:
    patience_seconds = 0.2 if error is UnavailableError else 30
    with answering(tmp_path, saying(*said)) as place, pytest.raises(error):
        QmpConnection(place, "s", patience_seconds)


def test_a_line_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmp, "_LINE_SIZE_BYTES_MAX", 1 << 20)

    def serve(client: socket.socket) -> None:
        while True:
            client.sendall(b"x" * 65536)

    with answering(tmp_path, serve) as place, pytest.raises(DamagedDataError, match="line of more"):
        QmpConnection(place, "s", 30)


def test_events_and_older_answers_are_passed_over(tmp_path: Path) -> None:
    events = b'{"event": "JOB", "data": {}}\n{"return": 7, "id": 1}\n'
    answer = b'{"return": [1], "id": 2}\n'
    with (
        answering(tmp_path, saying(GREETING, OK, events + answer, b"")) as place,
        QmpConnection(place, "s", 30) as found,
    ):
        assert found.execute("query-block") == [1]
        assert found.version == (8, 2)


class Told:
    """Answers whatever it was given."""

    version = (7, 2)

    def __init__(self, *answers: object) -> None:
        self._answers = itertools.cycle(answers)

    def execute(self, command: str, **arguments: object) -> object:
        return next(self._answers)


_ODD = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
_KEYS = st.sampled_from(
    [
        "node-name", "drv", "image", "cache", "virtual-size", "filename", "dirty-bitmaps", "name",
        "nodes", "edges", "id", "type", "parent", "child", "qdev", "inserted", "format-specific",
        "data", "ro", "direct", "no-flush", "recording", "busy", "UUID", "actual-size",
    ]
)  # fmt: skip
_ANSWERS = st.recursive(
    _ODD, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=9)
)


_FILTER_WITHOUT_LINK = [
    {
        "node-name": ViewNames("00000000", "11111111").filter,
        "drv": "copy-before-write",
        "image": {"virtual-size": 1, "filename": ""},
        "cache": {"direct": False, "no-flush": False},
        "ro": False,
    }
]


@given(st.lists(_ANSWERS, min_size=1, max_size=3))
@example([[{"node-name": "a", "drv": "b", "image": {"virtual-size": math.inf}, "cache": {}}]])
@example([[{"id": []}]])
@example([[], [], *[_FILTER_WITHOUT_LINK, {"nodes": [], "edges": []}, []] * 3])
def test_whatever_is_told_is_understood_or_damage(answers: list[object]) -> None:
    process = DiskProcess(EVERYTHING, "default", Path("/nowhere"))

    def let_all_go(qmp: QmpConnection) -> None:
        let_go(qmp, "00000000", lambda view: True)

    for ask in (
        graph_of,
        exports_of,
        let_all_go,
        process.require_served_safely,
        process.stop_nbd,
    ):
        with contextlib.suppress(DamagedDataError, SourceError):
            ask(cast("QmpConnection", Told(*answers)))
