"""Names by which an agent knows what is its own in a QEMU process, and the paths of disks."""

from pathlib import Path
from uuid import UUID

import pytest

from services.change_capture.drivers.qemu.names import (
    KeptName,
    ViewNames,
    device_digest,
    is_made,
    kept_name,
    view_of,
)
from services.change_capture.drivers.qemu.place import DiskPlace, place_of

NAMES = ViewNames("0123abcd", "89abcdef")
ALL = [
    NAMES.export, NAMES.since_cut, NAMES.changes, NAMES.scratch, NAMES.filter, NAMES.link,
    NAMES.access, NAMES.top, NAMES.flushing,
]  # fmt: skip
KEPT = KeptName(UUID(int=1), UUID(int=2), device_digest("a disk"))


def test_a_node_s_name_is_as_long_as_qemu_takes() -> None:
    assert {len(name) for name in ALL} <= {26, 27}


@pytest.mark.parametrize("name", ALL)
def test_an_agent_knows_the_names_of_its_own_views_alone(name: str) -> None:
    assert view_of(name, "0123abcd") == "89abcdef"
    assert view_of(name, "0123abce") is None
    assert view_of(name[:-2], "0123abcd") is None
    assert view_of(f"{name}xx", "0123abcd") is None
    assert view_of(f"x{name}", "0123abcd") is None
    assert is_made(name)
    assert kept_name(name) is None


def test_a_kept_bitmap_s_name_says_whose_it_is() -> None:
    assert kept_name(str(KEPT)) == KEPT
    assert view_of(str(KEPT), "00000000") is None
    for odd in ("", "backcast-", str(KEPT)[9:], str(KEPT).replace("-", "_"), str(KEPT).upper()):
        assert kept_name(odd) is None


@pytest.mark.parametrize(
    ("path", "socket", "disk", "is_device"),
    [
        ("/run/vm.qmp/top", "/run/vm.qmp", "top", False),
        ("/run/vm.qmp/machine/peripheral/vd0", "/run/vm.qmp", "/machine/peripheral/vd0", True),
        (
            "/run/machine/vm/machine/peripheral-anon/device[0]",
            "/run/machine/vm",
            "/machine/peripheral-anon/device[0]",
            True,
        ),
        ("/run/machine/top", "/run/machine", "top", False),
        ("/top", "/", "top", False),
    ],
)
def test_a_path_leads_through_the_socket_to_the_disk(
    path: str, socket: str, disk: str, is_device: bool
) -> None:
    place = place_of(Path(path))
    assert place == DiskPlace(Path(socket), disk)
    assert place.is_device == is_device
