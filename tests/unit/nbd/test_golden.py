"""Transcripts with programs of others, replayed: both ends still say the same bytes."""

import socket
import threading
from pathlib import Path

import pytest

from libs.nbd.connection.dialling import NbdAddress
from libs.nbd.export import Extent
from libs.nbd.server.session import ServerSession
from tests.golden.make_nbd import OURS, SIZE_BYTES, THEIRS, Transcript, golden_disk, read_transcript
from tests.support.nbd_serving import Serving
from tests.unit.nbd.wire import feed

_HOLE = 3
_QEMU, _NBDKIT = OURS


class Replay:
    """A server that says what another one said, and compares what it hears."""

    def __init__(self, path: Path, transcript: Transcript) -> None:
        self.path = path
        self._transcript = transcript
        self.differs: list[str] = []
        self._ear = socket.socket(socket.AF_UNIX)
        self._ear.bind(str(path))
        self._ear.listen()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        client, _ = self._ear.accept()
        with client, self._ear:
            for is_client, data in self._transcript:
                if not is_client:
                    client.sendall(data)
                    continue
                heard = client.recv(len(data), socket.MSG_WAITALL)
                if heard != data:
                    self.differs.append(f"expected {data.hex()}, got {heard.hex()}")
                    return

    def end(self) -> None:
        self._thread.join()
        assert self.differs == []


def replayed(name: str, tmp_path: Path) -> object:
    replay = Replay(tmp_path / "replay", read_transcript(name))
    try:
        return OURS[name](NbdAddress(f"unix:{replay.path}"))
    finally:
        replay.end()


def test_our_client_says_and_understands_the_same_with_qemu_nbd(tmp_path: Path) -> None:
    (allocation, dirty), changed, unchanged = replayed(_QEMU, tmp_path)  # type: ignore[misc]  # one of several results
    assert [extent for extent in dirty if extent.flags] == [
        Extent(131072, 65536, 1),
        Extent(524288, 65536, 1),
    ]
    assert allocation[0] == Extent(0, 131072, _HOLE)
    assert sum(extent.length for extent in allocation) == SIZE_BYTES
    assert (changed, unchanged) == (b"\7" * 1024, bytes(512))


def test_our_client_says_and_understands_the_same_with_nbdkit(tmp_path: Path) -> None:
    expected = bytes(512) + b"w" * 88 + bytes(100) + b"w" * 512 + bytes(188)
    assert replayed(_NBDKIT, tmp_path) == expected


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("size", [1, 29, 1 << 20])
def test_our_server_says_the_same_to_programs(name: str, size: int) -> None:
    transcript = read_transcript(name)
    serving = Serving(ServerSession("client"), {"disk": golden_disk()})
    said = bytearray()

    def react() -> None:
        serving.go_on()
        said.extend(b"".join(map(bytes, serving.session.take_output())))

    react()
    feed(
        serving.session,
        b"".join(data for is_client, data in transcript if is_client),
        react,
        [size],
    )
    assert said == b"".join(data for is_client, data in transcript if not is_client)
    assert serving.has_ended
