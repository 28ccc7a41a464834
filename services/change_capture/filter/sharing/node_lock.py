"""One filter of a volume on each node, where several nodes write it.

Locks of a file on a cluster's file system hold on all nodes. So the filters of one disk share a
lock of it, which keeps filters out that go through a page cache. The lock that each node has once
lies beside the control sockets of that node.
"""

import fcntl
import os
from pathlib import Path

from libs.errors import SourceError


def lock_on_node(control: Path, volume: Path) -> int:
    """A descriptor that has the lock until it is closed.

    Args:
        control: where the volume's control socket will be.
        volume: for the message.

    Raises:
        SourceError: another filter of this node has it, or the folder fails.
    """
    path = control.with_suffix(".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as err:
        raise SourceError(f"lock {path}: {err.strerror}; check that folder") from err
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        os.close(descriptor)
        raise SourceError(
            f"volume {volume}: another filter of this node has locked {path} ({err.strerror}); two "
            f"filters of one node would each miss what the other writes"
        ) from err
    return descriptor
