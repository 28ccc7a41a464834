"""Names of what this driver makes in QEMU: by them the next process knows what is whose.

Everything of one capture (nodes, exports, its bitmaps) has the name ``backcast-AGENT-VIEW``: the
agent's own id and the view's, both by chance. A bitmap that is kept for the next capture is named
after the volume, the session and the device. Whatever is named otherwise is somebody else's.
"""

import hashlib
from dataclasses import dataclass
from uuid import UUID

_PREFIX = "backcast-"
#: A node's name may have 31 characters: 9 + 8 + 1 + 8, and one for its part.
ID_LENGTH = 8
_DEVICE_LENGTH = 16
_UUID_LENGTH = 36


@dataclass(frozen=True, slots=True)
class ViewNames:
    """What is made for one view."""

    agent: str
    view: str

    @property
    def _all(self) -> str:
        return f"{_PREFIX}{self.agent}-{self.view}"

    @property
    def export(self) -> str:
        """Export of the frozen bytes, by its id and by its name."""
        return self._all

    @property
    def since_cut(self) -> str:
        """Bitmap of what is written since the cut; it becomes what is kept."""
        return self._all

    @property
    def changes(self) -> str:
        """Copy of the base's bitmap, and its export."""
        return f"{self._all}m"

    @property
    def flushing(self) -> str:
        """Export of the disk's own node, for flushing it."""
        return f"{self._all}u"

    @property
    def scratch(self) -> str:
        """Node of the scratch file."""
        return f"{self._all}s"

    @property
    def filter(self) -> str:
        """Node that copies before the guest writes."""
        return f"{self._all}f"

    @property
    def link(self) -> str:
        """Node between the filter and what is below it."""
        return f"{self._all}l"

    @property
    def top(self) -> str:
        """Node that a device is given, because a device by itself cannot be cut with others."""
        return f"{self._all}t"

    @property
    def access(self) -> str:
        """Node that reads the frozen bytes."""
        return f"{self._all}a"


@dataclass(frozen=True, slots=True)
class KeptName:
    """A bitmap of what was written since a session's cut."""

    volume: UUID
    session: UUID
    #: Tells the device, as `device_digest`.
    device: str

    def __str__(self) -> str:
        return f"{_PREFIX}{self.volume}-{self.session}-{self.device}"


def device_digest(identity: str) -> str:
    """A device's identity as a name has it."""
    return hashlib.sha256(identity.encode()).hexdigest()[:_DEVICE_LENGTH]


def kept_name(name: str) -> KeptName | None:
    """What a kept bitmap's name says; None if it is no such name."""
    text = name.removeprefix(_PREFIX)
    volume, session = text[:_UUID_LENGTH], text[_UUID_LENGTH + 1 : 2 * _UUID_LENGTH + 1]
    try:
        found = KeptName(UUID(volume), UUID(session), text[2 * _UUID_LENGTH + 2 :])
    except ValueError:
        return None
    return found if str(found) == name else None


def is_made(name: str) -> bool:
    """Whether an agent has made what has this name, this one or another."""
    return name.startswith(_PREFIX)


def view_of(name: str, agent: str) -> str | None:
    """The view that something with this name belongs to; None if it is not that agent's."""
    prefix = f"{_PREFIX}{agent}-"
    view = name.removeprefix(prefix)[:ID_LENGTH]
    is_known = name.startswith(prefix) and len(name) <= len(prefix) + ID_LENGTH + 1
    return view if is_known and len(view) == ID_LENGTH else None
