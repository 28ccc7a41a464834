"""The drivers that an agent has, by the names that orders call them."""

from collections.abc import Mapping
from pathlib import Path

from libs.errors import BadInputError
from services.change_capture.drivers.filter.driver import FilterDriver
from services.change_capture.drivers.hints.driver import HintsDriver
from services.change_capture.drivers.local.roots import Roots
from services.change_capture.drivers.port import Driver
from services.change_capture.drivers.qemu.driver import QemuDriver
from services.change_capture.drivers.reflink.driver import ReflinkDriver
from services.change_capture.drivers.scan.driver import ScanDriver
from services.change_capture.filter.places import CONTROL_FOLDER


def drivers(
    state_folder: Path, roots: Roots, filters_folder: Path = CONTROL_FOLDER
) -> Mapping[str, Driver]:
    """Name → driver.

    Args:
        state_folder: where drivers keep what they know of volumes.
        roots: what they may open.
        filters_folder: where the volume filters of this node have their control sockets.
    """
    return {
        "scan": ScanDriver(state_folder, roots),
        "hints": HintsDriver(roots),
        "reflink": ReflinkDriver(state_folder, roots),
        "qemu": QemuDriver(state_folder, roots),
        "filter": FilterDriver(filters_folder, roots),
    }


def find_driver(known: Mapping[str, Driver], name: str) -> Driver:
    """The driver of this name.

    Raises:
        BadInputError: this agent has none.
    """
    driver = known.get(name)
    if driver is None:
        raise BadInputError(f"driver {name!r}: this agent has {', '.join(sorted(known))}")
    return driver
