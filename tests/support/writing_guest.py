"""A guest that writes through a filter all the time, and remembers what it was told is written."""

import random
import threading
import time
from pathlib import Path

from libs.errors import BackcastError
from libs.nbd.connection.connection import NbdConnection
from libs.nbd.connection.dialling import NbdAddress
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.runtime.threads import start_thread

_BLOCK = 4096
SECONDS_MAX = 120.0


class _OverError(Exception):
    """The guest is asked to stop while nobody serves it."""


class WritingGuest:
    """Writes numbered records to blocks of its own, and reads some of them back.

    As a QEMU with `reconnect-delay`, it connects again when its connection is lost, and repeats
    what was not acknowledged.

    Args:
        listen: the filter's address.
        blocks: numbers of the blocks of 4 KiB that are its own.
        seed: of its choices.
    """

    def __init__(self, listen: str, blocks: range, seed: int) -> None:
        self._where = NbdAddress(listen, patience_seconds=SECONDS_MAX)
        self._blocks = blocks
        self._random = random.Random(seed)
        self._is_over = False
        #: By block: what it holds, as acknowledged.
        self.written: dict[int, bytes] = {}
        #: Acknowledged writes, and connections that were lost.
        self.count = 0
        self.lost: list[str] = []
        self.failure: BaseException | None = None
        self._connection = self._connected()
        self._thread = start_thread("guest", self._run, daemon=True)

    def stop(self) -> None:
        """End it, when the write under way is done.

        Raises:
            AssertionError: it read something else than it had written.
        """
        self._is_over = True
        self._thread.join(SECONDS_MAX)
        assert not self._thread.is_alive(), "the guest hangs"
        self._connection.close()
        if self.failure is not None:
            raise AssertionError(f"guest: {self.failure}") from self.failure

    def wait_for(self, more: int) -> None:
        """Until it has done so many more writes."""
        wanted, deadline = self.count + more, time.monotonic() + SECONDS_MAX
        while self.count < wanted:
            assert self.failure is None, self.failure
            assert time.monotonic() < deadline, f"{self.count} writes, expected {wanted}"
            time.sleep(0.002)

    def check(self, image: Path) -> None:
        """Every acknowledged write is in the image, whole."""
        content = image.read_bytes()
        for block, expected in self.written.items():
            found = content[block * _BLOCK : (block + 1) * _BLOCK]
            assert found == expected, f"block {block}: {found[:24]!r}, expected {expected[:24]!r}"

    @property
    def chunks(self) -> set[int]:
        """Chunks that it has written."""
        return {block * _BLOCK // CHUNK_SIZE_BYTES for block in self.written}

    def _run(self) -> None:
        try:
            while not self._is_over:
                block = self._random.choice(self._blocks)
                record = f"{block:08}-{self.count:012}|".encode().ljust(64, b".") * (_BLOCK // 64)
                self._write(block, record)
                self.written[block] = record
                self.count += 1
                if self._random.random() < 0.3:
                    self._read(self._random.choice(list(self.written)))
        except _OverError:  # what was not acknowledged counts for nothing
            pass
        except BaseException as err:  # noqa: BLE001 -- told by `stop`
            self.failure = err

    def _write(self, block: int, record: bytes) -> None:
        while True:
            try:
                self._connection.write(block * _BLOCK, record)
            except BackcastError as err:
                self._connect_again(err)
            else:
                return

    def _read(self, block: int) -> None:
        buffer = bytearray(_BLOCK)
        while True:
            try:
                self._connection.read_into(block * _BLOCK, memoryview(buffer))
            except BackcastError as err:
                self._connect_again(err)
            else:
                break
        assert buffer == self.written[block], f"block {block}: {bytes(buffer[:24])!r}"

    def _connect_again(self, err: BackcastError) -> None:
        self.lost.append(str(err))
        self._connection.close()
        self._connection = self._connected()

    def _connected(self) -> NbdConnection:
        deadline = time.monotonic() + SECONDS_MAX
        while True:
            try:
                return NbdConnection(self._where, "")
            except BackcastError:
                if self._is_over:
                    raise _OverError from None
                if time.monotonic() > deadline:
                    raise
                threading.Event().wait(0.02)
