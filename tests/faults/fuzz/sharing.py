"""Target: what somebody says who connects to the lead of a shared disk, and has proven nothing."""

import socket
import struct

import msgspec

from libs.errors import DamagedDataError
from services.change_capture.filter.sharing.channel import Greeting
from services.change_capture.filter.sharing.messages import Hello
from tests.faults.fuzz.target import Target

_NONCE, _MAC = bytes(16), bytes(16)
_HELLO = Hello("session/1/volume", "node-b", "saves", 1 << 40, "epoch")


def _read_greeting(data: bytes) -> None:
    """A hello that is taken is the one that was packed, and it proves nothing yet."""
    near, far = socket.socketpair()
    with near, far:
        far.sendall(data)
        far.shutdown(socket.SHUT_WR)
        try:
            greeting = Greeting(near, 5.0)
        except OSError as err:  # it ended too early
            raise DamagedDataError(str(err)) from err
        packed = msgspec.msgpack.encode(greeting.hello)
        assert msgspec.msgpack.decode(packed, type=Hello) == greeting.hello
        try:
            greeting.accept(b"k" * 32)
        except DamagedDataError:
            return
        raise AssertionError("a hello without the key was accepted")


def _seeds() -> list[bytes]:
    packed = msgspec.msgpack.encode(_HELLO)
    return [_NONCE + struct.pack(">I", len(packed)) + packed + _MAC]


SHARING = (Target("shared-disk-hello", _read_greeting, _seeds, (DamagedDataError,), 1500, 4),)
