"""A volume behind a filter, from the request to the restore."""

import os
from pathlib import Path

from tests.integration.capture.test_tracking import Answer, part_of
from tests.support.filters import Guest, filter_settings, running_filter
from tests.support.running import TENANT, RunningSite

CHUNK = 1 << 16


def test_what_is_written_through_a_filter_is_captured_and_nothing_else_is_read(
    site: RunningSite, tmp_path: Path
) -> None:
    path, name = tmp_path / "image", "filtered"
    path.write_bytes(os.urandom(16 << 20))
    sockets = site.cluster.home.filters_folder("agent")
    settings = filter_settings(tmp_path, path, control_folder=sockets)
    with running_filter(settings) as one:
        guest = Guest(one.volume)
        body = {"name": name, "path": str(path), "driver": "filter"}
        added: Answer = site.coordinator.post(f"/v1/tenants/{TENANT}/volumes", body)
        assert added["driver"] == "filter"
        first = site.take(name)
        assert (part_of(first)["tracking"], part_of(first)["consistency"]) == ("none", "frozen")
        guest.write(10 * CHUNK, os.urandom(3 * CHUNK))
        guest.write(200 * CHUNK + 5, b"x")
        guest.zero(100 * CHUNK, 2 * CHUNK)
        second = site.take(name)
        assert part_of(second)["tracking"] == "candidates", second
        assert part_of(second)["read_bytes"] == 6 * CHUNK
        assert site.matches(name, path)
        empty = site.take(name)
        assert (part_of(empty)["tracking"], part_of(empty)["read_bytes"]) == ("candidates", 0)
        guest.write(7 * CHUNK, b"y")
        site.kill("agent")
        site.start("agent")
        again = site.take(name)
        assert (part_of(again)["tracking"], part_of(again)["read_bytes"]) == ("candidates", CHUNK)
        assert site.matches(name, path)
