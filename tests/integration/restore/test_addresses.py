import itertools
import uuid
from typing import Any

import pytest

from libs.errors import BadInputError, NotFoundError
from libs.packs.layout import CHUNK_SIZE_BYTES
from tests.integration.restore.conftest import RestoreSite

TRANSLATE = "/volumes/disk/points/{}/translate"


@pytest.mark.parametrize("chunk", [0, 5, 39, 600, 900, 901, 1280])
def test_translation_down_and_up_agree(site: RestoreSite, chunk: int) -> None:
    offset = chunk * CHUNK_SIZE_BYTES + 77
    down = site.get(TRANSLATE.format(1), offset=offset)
    assert down["source"] == {"node": "node-1", "path": "/dev/disk", "offset_bytes": offset}
    assert down["logical"] == {"volume": "disk", "offset_bytes": offset, "chunk_index": chunk}
    up = site.get(TRANSLATE.format(1), **_storage(down))
    assert up["kind"] == "chunk"
    assert up["id"] == down["chunk"]
    content = site.disk[0]
    same = [
        index
        for index in range(-(-len(content) // CHUNK_SIZE_BYTES))
        if _chunk(content, index) == _chunk(content, chunk)
    ]
    assert [index for run in up["addresses"] for index in _indexes(run)] == same
    assert all(run["offset_bytes"] % CHUNK_SIZE_BYTES == 77 for run in up["addresses"])


def test_a_storage_address_resolves_only_in_points_that_use_it(site: RestoreSite) -> None:
    down = site.get(TRANSLATE.format(1), offset=3 * CHUNK_SIZE_BYTES)
    assert site.get(TRANSLATE.format(1), **_storage(down))["addresses"]
    assert site.get(TRANSLATE.format(2), **_storage(down))["addresses"] == []


def test_zeros_are_stored_nowhere(site: RestoreSite) -> None:
    down = site.get(TRANSLATE.format(1), offset=300 * CHUNK_SIZE_BYTES)
    assert (down["chunk"], down["storage"]) == ("zero", None)


def test_a_node_of_a_block_map_has_no_logical_address(site: RestoreSite) -> None:
    storage = _storage(site.get(TRANSLATE.format(1), offset=0))
    kinds = {"chunk"}
    for frame in itertools.count():
        try:
            up = site.get(TRANSLATE.format(1), **storage | {"frame": frame, "position": 0})
        except NotFoundError:
            break
        kinds.add(up["kind"])
        assert (up["kind"] == "node") == (not up["addresses"])
    assert kinds == {"chunk", "node"}


def test_addresses_that_do_not_exist_are_refused(site: RestoreSite) -> None:
    size = len(site.disk[0])
    storage = _storage(site.get(TRANSLATE.format(1), offset=0))
    for query in (
        {"offset": size},
        {"offset": -1},
        {},
        {"generation": storage["generation"]},
        {"offset": 0, **storage},
        storage | {"frame": 2047},
        storage | {"position": 1 << 20},
    ):
        with pytest.raises(BadInputError):
            site.get(TRANSLATE.format(1), **query)
    with pytest.raises(NotFoundError):
        site.get(TRANSLATE.format(1), **storage | {"generation": uuid.uuid4().hex})
    with pytest.raises(NotFoundError):
        site.get(TRANSLATE.format(1), **storage | {"frame": 2046})


@pytest.mark.parametrize(("older", "newer"), list(itertools.product((1, 2, 3), repeat=2)))
@pytest.mark.parametrize("limit", [1, 10_000])
def test_the_difference_is_what_comparing_bytes_gives(
    site: RestoreSite, older: int, newer: int, limit: int
) -> None:
    before, after = site.disk[older - 1], site.disk[newer - 1]
    extents: list[dict[str, int]] = []
    query: dict[str, Any] = {"from": older, "to": newer, "start": 0, "limit": limit}
    while query["start"] is not None:
        page = site.get("/volumes/disk/diff", **query)
        assert (page["from"], page["to"]) == (older, newer)
        assert (page["from_size_bytes"], page["to_size_bytes"]) == (len(before), len(after))
        assert len(page["extents"]) <= limit
        extents += page["extents"]
        query["start"] = page["next"]
    changed = {
        index
        for index in range(-(-len(after) // CHUNK_SIZE_BYTES))
        if _chunk(before, index) != _chunk(after, index)
    }
    assert {
        index
        for extent in extents
        for index in range(
            extent["offset_bytes"] // CHUNK_SIZE_BYTES,
            -(-(extent["offset_bytes"] + extent["length_bytes"]) // CHUNK_SIZE_BYTES),
        )
    } == changed
    assert all(e["offset_bytes"] + e["length_bytes"] <= len(after) for e in extents)


def _storage(down: dict[str, Any]) -> dict[str, Any]:
    return {name: down["storage"][name] for name in ("generation", "frame", "position")}


def _indexes(run: dict[str, int]) -> range:
    return range(run["chunk_index"], run["chunk_index"] + run["chunk_count"])


def _chunk(content: bytes, index: int) -> bytes:
    return content[index * CHUNK_SIZE_BYTES : (index + 1) * CHUNK_SIZE_BYTES].ljust(
        CHUNK_SIZE_BYTES, b"\0"
    )
