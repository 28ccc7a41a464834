"""Images on real file systems that can clone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.driver_sites import ReflinkSite
from tests.support.file_systems import CLONING, mounted_to_clone


@pytest.fixture(scope="session", params=CLONING)
def cloning(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A mounted XFS or btrfs."""
    with mounted_to_clone(tmp_path_factory.mktemp("mounts"), request.param) as mount:
        yield mount


@pytest.fixture(scope="session")
def btrfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A mounted btrfs of its own, which a test may balance."""
    with mounted_to_clone(tmp_path_factory.mktemp("mounts"), "btrfs") as mount:
        yield mount


@pytest.fixture
def site(cloning: Path, tmp_path: Path) -> ReflinkSite:
    """An image that nobody has written to yet."""
    return site_on(cloning, tmp_path)


def site_on(mount: Path, tmp_path: Path) -> ReflinkSite:
    """An image in a folder of its own."""
    folder = mount / tmp_path.name
    folder.mkdir()
    return ReflinkSite(folder, tmp_path / "state")
