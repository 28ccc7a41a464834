"""What a session's decisions order; whoever carries a command out may do so again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from libs.events.fields import HoldMeans


@dataclass(frozen=True, slots=True)
class Member:
    """What one node has confirmed of this attempt's barrier. Times are the node's wall clock.

    They are evidence for people. Nothing is decided by them.
    """

    prepared: bool = False
    means: HoldMeans = "none"
    held_at: float | None = None
    cut_at: float | None = None
    released_at: float | None = None
    unbroken: bool = False
    #: By volume that several nodes write and this one leads: where the others find its filter.
    leads: Mapping[UUID, str] = field(default_factory=dict, hash=False)
    #: Connected to the leads of what it follows.
    following: bool = False


@dataclass(frozen=True, slots=True)
class PrepareNode:
    """Open what the node needs for the barrier."""

    node: str


@dataclass(frozen=True, slots=True)
class FollowLeads:
    """Connect to the leads of volumes that other nodes write, too."""

    node: str
    leads: Mapping[UUID, str] = field(hash=False)


@dataclass(frozen=True, slots=True)
class HoldNode:
    """Hold writes."""

    node: str


@dataclass(frozen=True, slots=True)
class CutNode:
    """Begin the frozen views."""

    node: str


@dataclass(frozen=True, slots=True)
class ReleaseNode:
    """Let writes go on; ``abandoned``: the views are of no use to anybody."""

    node: str
    abandoned: bool


@dataclass(frozen=True, slots=True)
class RecordCut:
    """Write the cut and its evidence to the catalog: from then on captures may be ordered."""

    members: Mapping[str, Member] = field(hash=False)


@dataclass(frozen=True, slots=True)
class CaptureVolume:
    """Order a capture from the volume's agent."""

    capture: UUID


@dataclass(frozen=True, slots=True)
class Reject:
    """End the session without a snapshot."""

    code: str
    message: str


Command = (
    PrepareNode
    | FollowLeads
    | HoldNode
    | CutNode
    | ReleaseNode
    | RecordCut
    | CaptureVolume
    | Reject
)
