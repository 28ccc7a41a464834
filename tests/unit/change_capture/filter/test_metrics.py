"""What a filter tells a monitoring system."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from libs.errors import SourceError
from libs.nbd.connection.connection import NbdConnection
from libs.nbd.connection.dialling import NbdAddress
from libs.packs.layout import CHUNK_SIZE_BYTES
from services.change_capture.filter.metrics import watch
from tests.support.filters import Guest, filter_settings, running_filter

CHUNKS = 64


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Figures:
    """The figures of a registry by name and labels."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def __call__(self, name: str, **labels: str) -> float:
        value = self._registry.get_sample_value(f"backcast_filter_{name}", labels)
        assert value is not None, (name, labels)
        return value


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(bytes(CHUNKS * CHUNK_SIZE_BYTES))
    return path


def test_requests_are_counted_while_clients_are_there_and_when_they_have_left(
    image: Path, tmp_path: Path
) -> None:
    settings, registry = filter_settings(tmp_path, image), CollectorRegistry()
    figures = Figures(registry)
    with running_filter(settings) as one:
        watch(one, registry)
        with NbdConnection(NbdAddress(settings.nbd_listen), "") as guest:
            guest.write(0, bytes(3 * CHUNK_SIZE_BYTES))
            guest.write(9 * CHUNK_SIZE_BYTES, b"x")
            guest.read_into(0, memoryview(bytearray(4096)))
            guest.trim(0, 4096)
            guest.flush()
            assert figures("clients") == 1
            assert figures("requests_total", command="write") == 2
        until(lambda: figures("clients") == 0)
        assert figures("request_bytes_total", command="write") == 3 * CHUNK_SIZE_BYTES + 1
        assert figures("request_bytes_total", command="read") == 4096
        assert figures("requests_total", command="flush") == 1
        assert figures("failed_requests_total") == 0
        assert figures("marked_chunks") == 4


def test_holds_are_a_histogram_by_whether_they_ended_in_time(image: Path, tmp_path: Path) -> None:
    settings, registry = filter_settings(tmp_path, image), CollectorRegistry()
    figures = Figures(registry)
    with running_filter(settings) as one:
        watch(one, registry)
        one.cuts.hold(self_owner := object(), 60.0)
        one.cuts.cut(self_owner)
        assert one.cuts.release(self_owner)
        one.cuts.end(self_owner)
        one.cuts.hold(self_owner, 0.001)
        until(lambda: not one.volume.valve.is_holding)
        assert one.cuts.release(self_owner) is None
    assert figures("hold_seconds_count", outcome="released") == 1
    assert figures("hold_seconds_count", outcome="broken") == 1
    assert 0 < figures("hold_seconds_sum", outcome="released") < 60


def test_views_and_why_they_broke_are_told(image: Path, tmp_path: Path) -> None:
    image.write_bytes(b"x" * CHUNKS * CHUNK_SIZE_BYTES)
    room = 2 * CHUNK_SIZE_BYTES
    settings = filter_settings(tmp_path, image, scratch_size_bytes_max=room)
    registry, owner = CollectorRegistry(), object()
    figures = Figures(registry)
    with running_filter(settings) as one:
        watch(one, registry)
        guest = Guest(one.volume)
        one.cuts.hold(owner, 60.0)
        one.cuts.cut(owner)
        token = one.cuts.release(owner)
        assert token
        guest.write(0, b"y" * CHUNK_SIZE_BYTES)
        assert (figures("views"), figures("scratch_bytes")) == (1, CHUNK_SIZE_BYTES)
        for number in range(1, 5):
            guest.write(number * CHUNK_SIZE_BYTES, b"z" * CHUNK_SIZE_BYTES)
        with pytest.raises(SourceError):
            one.cuts.view(token).read_into(0, memoryview(bytearray(CHUNK_SIZE_BYTES)))
        assert figures("broken_views_total", reason="scratch-full") == 1
        assert figures("broken_views_total", reason="scratch-slow") == 0
        one.cuts.end(owner)
        assert (figures("views"), figures("scratch_bytes")) == (0, 0)


def test_lost_tracking_is_told_with_its_reason(image: Path, tmp_path: Path) -> None:
    settings = filter_settings(tmp_path, image)
    for is_lost in (False, True):
        registry = CollectorRegistry()
        with running_filter(settings) as one:
            watch(one, registry)
            assert Figures(registry)("tracking_lost", reason="unclean") == is_lost
        with image.open("r+b") as file:
            file.write(b"behind its back")
