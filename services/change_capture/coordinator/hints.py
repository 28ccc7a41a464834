"""What a client says has changed of a volume, and whether it fits its session."""

from dataclasses import dataclass
from uuid import UUID

from libs.catalogdb.sessions.session import PartView, SessionView
from libs.errors import BackcastError, BadInputError, ConflictError


@dataclass(frozen=True, slots=True)
class HintedVolume:
    """What a client says has changed of one volume of the group."""

    #: Name of the volume, or of its group if that has no other.
    name: str
    #: Snapshot since which it has changed.
    base: UUID
    #: Runs of chunks, as `libs.ranges.pack_runs`.
    runs: bytes


def hinted_part(view: SessionView, hinted: HintedVolume) -> PartView | BackcastError:
    """The volume that hints are for, or why they cannot be used.

    A session without a base, because the head's data was found damaged, compares everything.
    """
    parts = [part for part in view.parts if part.volume_name == hinted.name]
    parts = parts or [*view.parts]
    if len(parts) != 1:
        names = ", ".join(part.volume_name for part in parts)
        return BadInputError(f"hints: name the volume that they are for, one of {names}")
    if view.base not in (None, hinted.base):
        return ConflictError(
            f"hints: they say what changed since snapshot {hinted.base}, but the newest "
            f"snapshot of group {view.group} is {view.base}; get the changes since that one, "
            f"or take the snapshot without hints"
        )
    return parts[0]
