"""A site for every driver, and for the fake of tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.driver_sites import (
    FilterSite,
    HintsSite,
    MemorySite,
    QemuSite,
    ReflinkSite,
    ScanSite,
    Site,
)
from tests.support.file_systems import CLONING, mounted_to_clone
from tests.support.qemu import require_storage_daemon

_MAKERS: dict[str, Callable[[Path], Site]] = {
    "scan": ScanSite,
    "hints": HintsSite,
    "memory": lambda _: MemorySite(),
    "qemu": QemuSite,
    "filter": FilterSite,
}


@pytest.fixture(scope="module", params=[*_MAKERS, *CLONING])
def made_site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Path], Site] | Path]:
    """What makes a site, or the file system that the sites of `reflink` lie on."""
    if request.param == "qemu":
        require_storage_daemon()
    if maker := _MAKERS.get(request.param):
        yield maker
    else:
        with mounted_to_clone(tmp_path_factory.mktemp("mounts"), request.param) as mount:
            yield mount


@pytest.fixture
def site(made_site: Callable[[Path], Site] | Path, tmp_path: Path) -> Iterator[Site]:
    if isinstance(made_site, Path):
        folder = made_site / tmp_path.name
        folder.mkdir()
        found: Site = ReflinkSite(folder, tmp_path / "state")
    else:
        found = made_site(tmp_path)
    yield found
    found.close()
