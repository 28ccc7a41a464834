"""Restores of a part of a volume, to a stream, and of volumes that are mostly holes."""

import os
import random
import threading
import time
from pathlib import Path

import pytest

from libs.errors import BadInputError
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.points import RecoveryPoint
from libs.ranges import ByteRange
from libs.restoring import restore as restoring
from libs.restoring.ranges import StreamOutput
from libs.restoring.restore import RestoreFigures
from tests.integration.restore.conftest import SECONDS_MAX, TENANT, RestoreSite
from tests.integration.restore.test_restores import restore


def restore_stream(
    site: RestoreSite, point: str, descriptor: int, wanted: ByteRange | None = None
) -> RestoreFigures:
    return restoring.restore_to_stream(
        site.client(),
        TENANT,
        RecoveryPoint("disk", point),
        StreamOutput(descriptor, "pipe"),
        progressed=lambda done, total: None,
        wanted=wanted,
    )


def streamed(site: RestoreSite, point: str, wanted: ByteRange | None = None) -> bytes:
    """What a pipe gets, which is read meanwhile."""
    reads, writes = os.pipe()
    got = bytearray()

    def read() -> None:
        while piece := os.read(reads, 1 << 20):
            got.extend(piece)

    reading = threading.Thread(target=read)
    reading.start()
    try:
        figures = restore_stream(site, point, writes, wanted)
    finally:
        os.close(writes)
        reading.join(SECONDS_MAX)
        os.close(reads)
    assert figures.bytes == len(got)
    return bytes(got)


@pytest.mark.parametrize("sequence", [1, 2, 3])
def test_a_stream_gets_the_volume_or_a_range_of_it_in_order(
    site: RestoreSite, monkeypatch: pytest.MonkeyPatch, sequence: int
) -> None:
    content, dice = site.disk[sequence - 1], random.Random(sequence)
    for window_chunks in (restoring._WINDOW_CHUNK_COUNT_MAX, 600):  # with and without gaps
        monkeypatch.setattr(restoring, "_WINDOW_CHUNK_COUNT_FIRST", window_chunks // 8)
        monkeypatch.setattr(restoring, "_WINDOW_CHUNK_COUNT_MAX", window_chunks)
        assert streamed(site, str(sequence)) == content
        for _ in range(10):
            start = dice.randrange(len(content))
            end = min(start + dice.choice([1, 70_000, 5 << 20, 1 << 40]), len(content))
            wanted = ByteRange(start, end)
            assert streamed(site, str(sequence), wanted) == content[start:end], wanted
    beyond = ByteRange(1, len(content) + 1)
    with pytest.raises(BadInputError, match=f"disk@{sequence} has {len(content)} bytes"):
        streamed(site, str(sequence), beyond)


def test_a_range_becomes_a_file_of_its_length(site: RestoreSite, tmp_path: Path) -> None:
    content, out = site.disk[0], tmp_path / "out"
    for start, end in ((0, 1), (5, 70_005), (3 << 16, 45 << 20), (len(content) - 5, len(content))):
        figures = restore(site, out, "1", wanted=ByteRange(start, end), force=True)
        assert out.read_bytes() == content[start:end]
        assert figures.bytes == end - start
    with pytest.raises(BadInputError, match="bytes"):
        restore(site, tmp_path / "other", "1", wanted=ByteRange(0, len(content) + 1))
    assert not (tmp_path / "other").exists()


def test_a_stream_that_nobody_reads_any_more_ends_the_restore(site: RestoreSite) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    before = site.get("/events", topic="backcast.restores", limit=1000)["next"]
    with pytest.raises(BrokenPipeError):
        restore_stream(site, "1", writes)
    os.close(writes)
    events = site.get("/events", topic="backcast.restores", after=before)["events"]
    assert events[-1]["type"].endswith("restore_failed")


def test_holes_cost_no_windows(site: RestoreSite, tmp_path: Path) -> None:
    """15 TiB with two chunks of data: as many as ext4 can give a file, in a handful of windows."""
    size_bytes, content = 15 << 40, random.Random(4).randbytes(CHUNK_SIZE_BYTES)
    site.taker.protect(TENANT, "vast", "vast")
    site.taker.take(TENANT, "vast", {"vast": content + bytes(6 << 30 >> 3) + content})
    site.catalog.sql(
        """UPDATE snapshot_volume SET size_bytes = %s WHERE volume_no =
           (SELECT volume_no FROM volume WHERE name = 'vast') RETURNING 1""",
        size_bytes,
    )
    before = site.get("/events", topic="backcast.restores", limit=1000)["next"]
    out, told = tmp_path / "out", list[tuple[int, int]]()
    begun = time.monotonic()
    figures = restore(site, out, name="vast", progressed=lambda *bytes_: told.append(bytes_))
    assert time.monotonic() - begun < 5
    assert figures.bytes == out.stat().st_size == size_bytes
    assert max(told) == (size_bytes, size_bytes)
    with out.open("rb") as restored:
        assert restored.read(len(content)) == content
        restored.seek(len(content) + (6 << 30 >> 3))
        assert restored.read(len(content) + 1) == content + b"\0"
    events = site.get("/events", topic="backcast.restores", after=before)["events"]
    assert sum(event["type"].endswith("restore_planned") for event in events) <= 3
    out.unlink()
