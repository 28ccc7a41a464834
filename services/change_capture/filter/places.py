"""Where the filter of a volume is found: a name that agent and filter both make from the volume."""

import os
import stat
from pathlib import Path

#: Where the control sockets of a node are, unless settings say another folder.
CONTROL_FOLDER = Path("/run/backcast/filters")


def control_path(folder: Path, descriptor: int) -> Path:
    """The control socket of the filter in front of an open file or device of this host.

    Args:
        folder: of the control sockets.
        descriptor: the file or device.
    """
    status = os.fstat(descriptor)
    if stat.S_ISBLK(status.st_mode):
        return folder / f"device-{status.st_rdev:x}.sock"
    return folder / f"file-{status.st_dev:x}-{status.st_ino:x}.sock"
