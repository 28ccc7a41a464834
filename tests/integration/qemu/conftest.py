"""Disks of real QEMU processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.driver_sites import QemuSite
from tests.support.qemu import require_storage_daemon


@pytest.fixture(params=["qcow2", "raw"])
def any_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[QemuSite]:
    """A disk that nobody has written to yet, of either format."""
    yield from opened(tmp_path, request.param)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[QemuSite]:
    """A disk in a qcow2 file, which keeps bitmaps."""
    yield from opened(tmp_path, "qcow2")


@pytest.fixture
def raw_site(tmp_path: Path) -> Iterator[QemuSite]:
    """A disk in a raw file, which keeps none."""
    yield from opened(tmp_path, "raw")


def opened(folder: Path, kind: str) -> Iterator[QemuSite]:
    require_storage_daemon()
    made = QemuSite(folder, kind)
    yield made
    made.close()
