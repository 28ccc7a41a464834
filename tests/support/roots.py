"""What agents of tests open."""

from pathlib import Path

from services.change_capture.barrier.hold import MountPoint, open_mount_point
from services.change_capture.drivers.local.roots import ALL_TENANTS, Root, Roots
from services.change_capture.drivers.local.view import LocalView

TENANT = "default"
#: Whatever the user of the tests may read, as `dev up` has it.
EVERYTHING = Roots([Root(ALL_TENANTS, Path("/"))])


def view_of(path: Path) -> LocalView:
    """A volume's view, for any tenant."""
    return LocalView(EVERYTHING.open(TENANT, path))


def mount_point(path: Path) -> MountPoint:
    """A mount point, open to be frozen."""
    return open_mount_point(EVERYTHING, TENANT, str(path))
