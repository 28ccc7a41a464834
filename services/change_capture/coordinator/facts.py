"""What can become known about a session: the facts that its decisions are made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from libs.events.fields import HoldMeans


@dataclass(frozen=True, slots=True)
class NodePrepared:
    """A node has opened what it needs, and says by what means it can hold writes."""

    node: str
    attempt: int
    means: HoldMeans
    #: By volume that several nodes write and this one leads: where the others find its filter.
    leads: Mapping[UUID, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class NodeFollowing:
    """A node is connected to the leads of volumes that other nodes write, too."""

    node: str
    attempt: int


@dataclass(frozen=True, slots=True)
class NodeHeld:
    """A node holds: new writes wait, earlier ones are flushed."""

    node: str
    attempt: int
    at: float


@dataclass(frozen=True, slots=True)
class NodeCut:
    """A node's frozen views begin."""

    node: str
    attempt: int
    at: float


@dataclass(frozen=True, slots=True)
class NodeReleased:
    """The release has reached a node, which says whether its hold was unbroken until then."""

    node: str
    attempt: int
    at: float
    unbroken: bool


@dataclass(frozen=True, slots=True)
class NodeRefused:
    """A node cannot do its next step, or its hold ended by its own deadline."""

    node: str
    attempt: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class AttemptSuperseded:
    """The catalog says that this attempt is no longer the session's."""

    attempt: int


@dataclass(frozen=True, slots=True)
class CutRecorded:
    """The catalog has the cut of this attempt."""

    attempt: int


@dataclass(frozen=True, slots=True)
class CaptureUnknown:
    """The agent's present process does not know a capture."""

    capture: UUID


@dataclass(frozen=True, slots=True)
class CaptureRefused:
    """The agent aborted a capture or refuses to begin it."""

    capture: UUID
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class PartFinished:
    """All of a volume is stored."""

    capture: UUID


@dataclass(frozen=True, slots=True)
class SessionSealed:
    """The catalog has acknowledged the snapshot."""


@dataclass(frozen=True, slots=True)
class SessionRejected:
    """The catalog has rejected the session."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Ticked:
    """The time, in seconds of the driver's monotonic clock."""

    now: float


Fact = (
    NodePrepared
    | NodeFollowing
    | NodeHeld
    | NodeCut
    | NodeReleased
    | NodeRefused
    | AttemptSuperseded
    | CutRecorded
    | CaptureUnknown
    | CaptureRefused
    | PartFinished
    | SessionSealed
    | SessionRejected
    | Ticked
)

NodeFact = NodePrepared | NodeFollowing | NodeHeld | NodeCut | NodeReleased | NodeRefused
CaptureFact = CaptureUnknown | CaptureRefused | PartFinished
