"""The VMs that an agent finds in its roots, and tells the coordinator of."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from services.change_capture.drivers.local.roots import Roots
from services.change_capture.drivers.qemu.machine.discovery import find_machines
from services.change_capture.rpc import VM_COUNT_MAX, FoundVm

#: A VM that nobody protects is told within two of these, and an announcement.
DISCOVER_SECONDS = 60.0


def found_vms(roots: Roots) -> list[FoundVm]:
    """The VMs in all roots, as the coordinator is told. One with an odd path is left out."""
    found = list[FoundVm]()
    for one in find_machines(roots):
        with contextlib.suppress(ValidationError):
            found.append(FoundVm(tenant=one.tenant, socket=str(one.socket)))
    return found[:VM_COUNT_MAX]


class VmWatch:
    """Looks for VMs now and then. Thread-safe.

    Args:
        roots: where.
    """

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._lock = threading.Lock()
        self._found: list[Any] | None = None

    def look(self) -> None:
        """A round of a loop."""
        found = [one.model_dump() for one in found_vms(self._roots)]
        with self._lock:
            self._found = found

    @contextlib.contextmanager
    def told(self) -> Iterator[list[Any] | None]:
        """What to tell, which is told once; None: there is no new look.

        If the context ends by an error, it is told again.
        """
        with self._lock:
            found, self._found = self._found, None
        try:
            yield found
        except BaseException:
            self._put_back(found)
            raise

    def _put_back(self, found: list[Any] | None) -> None:
        with self._lock:
            if self._found is None:  # nobody has looked meanwhile
                self._found = found
