"""A volume filter in this process, and clients of it."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from libs.packs.layout import CHUNK_SIZE_BYTES
from services.change_capture.filter.process import VolumeFilter
from services.change_capture.filter.settings import Settings
from services.change_capture.filter.volume import FilteredVolume


def filter_settings(folder: Path, volume: Path, **more: object) -> Settings:
    """Settings of a filter whose state and sockets lie in ``folder``."""
    values: dict[str, object] = {
        "volume": volume,
        "nbd_listen": f"unix:{folder / 'nbd.sock'}",
        "state_folder": folder / "filter",
        "control_folder": folder / "filters",
        **more,
    }
    return Settings(**values)  # type: ignore[arg-type]  # the tests name their fields


@contextlib.contextmanager
def running_filter(settings: Settings) -> Iterator[VolumeFilter]:
    """A filter that is stopped cleanly in the end."""
    one = VolumeFilter(settings)
    try:
        yield one
    finally:
        one.stop()


class Guest:
    """Writes to a filtered volume as a connection does: inside the gate."""

    def __init__(self, volume: FilteredVolume) -> None:
        self.volume = volume
        self.passage = volume.valve.passage()

    def write(self, offset: int, content: bytes) -> None:
        self.passage.enter()
        self.volume.write(offset, memoryview(content))
        self.passage.leave()

    def zero(self, offset: int, length: int, *, may_deallocate: bool = True) -> None:
        self.passage.enter()
        self.volume.zero(offset, length, may_deallocate=may_deallocate)
        self.passage.leave()

    def trim(self, offset: int, length: int) -> None:
        self.passage.enter()
        self.volume.trim(offset, length)
        self.passage.leave()


def uri_of(settings: Settings, export: str = "") -> str:
    """The URI of a filter's export on its Unix socket, as libnbd and QEMU read it."""
    return f"nbd+unix:///{export}?socket={settings.nbd_listen.removeprefix('unix:')}"


def said_by(*command: str) -> str:
    """What a program says, if it succeeds."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{command}: {done.stdout} {done.stderr}"
    return done.stdout


def chunk(number: int, fill: int) -> bytes:
    """A chunk that says where it is and which write it is of."""
    return f"{number:08}-{fill:08}".encode().ljust(16, b".") * (CHUNK_SIZE_BYTES // 16)
