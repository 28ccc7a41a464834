"""Nobody reads a clone that an agent keeps as a volume, whatever it is called."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from libs.errors import ConfigurationError, SourceError
from libs.packs.layout import CHUNK_SIZE_BYTES
from services.change_capture.drivers.local.roots import Root, Roots
from tests.support.driver_sites import ReflinkSite
from tests.support.roots import EVERYTHING, TENANT
from tests.support.taking import Taken


def clone_of(site: ReflinkSite) -> Path:
    """The clone of a volume that was captured."""
    site.write(0, 4)
    Taken(site, None).settle(sealed=True)
    (clone,) = (site.folder / ".backcast-clones").iterdir()
    return clone


def in_the_folder(clone: Path) -> Path:
    return clone


def renamed(clone: Path) -> Path:
    return clone.rename(clone.parent.parent / "mine")


def linked(clone: Path) -> Path:
    (clone.parent.parent / "mine").hardlink_to(clone)
    return clone.parent.parent / "mine"


def folder_renamed(clone: Path) -> Path:
    return clone.parent.rename(clone.parent.parent / "mine") / clone.name


def by_a_link(clone: Path) -> Path:
    (clone.parent.parent / "mine").symlink_to(clone)
    return clone.parent.parent / "mine"


def put_beside(clone: Path) -> Path:
    """What lies in the folder is the agent's, whoever put it there."""
    (clone.parent / "image").write_bytes(b"x" * CHUNK_SIZE_BYTES)
    return clone.parent / "image"


@pytest.mark.parametrize(
    "way", [in_the_folder, renamed, linked, folder_renamed, by_a_link, put_beside]
)
def test_a_clone_is_no_volume(site: ReflinkSite, way: Callable[[Path], Path]) -> None:
    path = way(clone_of(site))
    assert path.read_bytes()
    for roots in (EVERYTHING, Roots([Root(TENANT, site.folder)])):
        with pytest.raises(SourceError, match="nothing there for tenant"):
            roots.open(TENANT, path)
    with contextlib.closing(EVERYTHING.open(TENANT, site.path)):
        pass


def test_no_root_lies_in_a_folder_of_clones(site: ReflinkSite) -> None:
    folder = clone_of(site).parent
    with pytest.raises(ConfigurationError):
        Roots([Root(TENANT, folder)])
