"""What coordinator and agents say to each other over HTTP."""

from typing import Annotated, Literal
from uuid import UUID

from annotated_types import MaxLen
from pydantic import Base64Bytes, Base64Encoder, BaseModel, EncodedBytes, Field

from libs.events.fields import HoldMeans
from libs.ranges import HINTS_SIZE_BYTES_MAX

#: Longest body of a request that carries hints: they are in Base64, and the rest is short.
HINTS_BODY_SIZE_BYTES_MAX = HINTS_SIZE_BYTES_MAX // 3 * 4 + (1 << 20)

#: A moment by a node's clock, in seconds since 1970; until the end of the year 9999, which is the
#: last one that dates know.
NodeTime = Annotated[float, Field(ge=0, lt=253_402_300_800, allow_inf_nan=False)]

#: Runs of chunks, ascending, 12 bytes each (`libs.ranges.pack_runs`), in Base64.
Hints = Annotated[bytes, MaxLen(HINTS_SIZE_BYTES_MAX // 3 * 4), EncodedBytes(encoder=Base64Encoder)]

#: VMs that an agent tells of at most, and longest path of one's QMP socket.
VM_COUNT_MAX = 512
VM_SOCKET_LENGTH_MAX = 128

#: Drivers that a volume may be given; `hints` come with a snapshot.
DriverName = Literal["scan", "reflink", "qemu", "filter"]


class EnrolmentRequest(BaseModel):
    """An agent that has an invitation asks for the credential of its node."""

    node: str = Field(max_length=63, description="Name of the node")
    credential: UUID = Field(
        description="Chosen by the agent and kept before it asks; the same one again gives the "
        "same answer"
    )


class EnrolmentAnswer(BaseModel):
    """The credential of the node: the agent's secret."""

    credential: str


class FoundVm(BaseModel):
    """A QMP socket in a root of a node, at which somebody listens."""

    tenant: str = Field(max_length=63, description="Tenant of the root; * if it is everybody's")
    socket: str = Field(
        max_length=VM_SOCKET_LENGTH_MAX, pattern=r"^/[ -~]*$", description="Its path on the node"
    )


class FoundVms(BaseModel):
    """All that an agent finds."""

    vms: list[FoundVm]


class NodeAnnouncement(BaseModel):
    """An agent tells where it can be reached and which process it is."""

    rpc_url: str = Field(max_length=512, description="Base URL of the agent's RPC")
    span_address: str = Field(max_length=512, description="host:port that chunkers dial")
    boot: UUID = Field(description="Changes with every start of the agent process")
    version: str = Field("", max_length=64, description="Release of the agent")
    state_free_bytes: int | None = Field(
        default=None, ge=0, description="Room on the file system where the agent keeps its state"
    )
    state_size_bytes: int | None = Field(default=None, ge=0, description="Size of that file system")
    vms: list[FoundVm] | None = Field(
        default=None, max_length=VM_COUNT_MAX, description="VMs that it finds; null: no new look"
    )


class NodeAbout(BaseModel):
    """What an agent says of itself to the coordinator."""

    name: str
    boot: UUID
    span_address: str
    roots: list[str] = Field(description="What tenants may protect there, TENANT=PATH")


class ProbeRequest(BaseModel):
    """Look at a path that is to become a volume."""

    tenant: str = Field(description="Tenant that the path must be open to")
    path: str
    freeze: str | None = None
    driver: str = Field("scan", description="By which driver it is to be captured")


class ProbeResponse(BaseModel):
    """The path can be captured."""

    size_bytes: int


class MachineRequest(BaseModel):
    """Look at a VM that is, or is to become, a group of volumes."""

    tenant: str = Field(description="Tenant that the socket must be open to")
    path: str = Field(description="Path of the volume that is its definition")


class MachineDiskAnswer(BaseModel):
    """A disk that the guest can write to."""

    name: str = Field(description="What it is called in the VM")
    path: str = Field(description="Its path as a volume")
    size_bytes: int


class MachineAnswer(BaseModel):
    """All of the VM can be captured."""

    disks: list[MachineDiskAnswer]


class CaptureRequest(BaseModel):
    """Capture one volume for one session."""

    session: UUID
    capture: UUID
    tenant: str
    group: UUID
    volume: UUID
    path: str
    base: UUID | None
    token: Base64Bytes
    id_key: Base64Bytes
    cut_attempt: int = Field(
        0, ge=0, description="Attempt at the barrier whose views are read; 0: there is no barrier"
    )
    driver: str = Field("scan", description="How the volume is read and its changes are known")
    is_trusted: bool = Field(
        True, description="False: what was tracked since this base was found untrue"
    )
    hints: Hints | None = Field(None, description="Chunks that may have changed")


class SharedSource(BaseModel):
    """What a node is at the cut of a volume that several nodes write."""

    cut: str = Field(max_length=128, description="Names the cut on all nodes")
    key: Base64Bytes = Field(description="32 bytes, by which the nodes know each other")
    followers: list[str] = Field(
        description="Of the lead: the other nodes. Nothing: this node follows", max_length=7
    )


class BarrierSource(BaseModel):
    """One volume that a node is to cut."""

    volume: UUID
    path: str
    freeze: str | None = Field(
        None, description="Mount point of the file system to freeze while writes are held"
    )
    driver: str = Field("scan", description="By which driver it is cut")
    shared: SharedSource | None = Field(None, description="Set if other nodes write it, too")


class PrepareRequest(BaseModel):
    """Open what a node needs for a session's barrier; an older attempt's is let go."""

    attempt: int = Field(ge=1)
    tenant: str = Field(description="Tenant that the volumes and mount points must be open to")
    sources: list[BarrierSource]
    volume_count: int = Field(
        0, ge=0, description="Volumes that the session has on all nodes; 0: not said"
    )
    hold_seconds: float = Field(gt=0, description="The node ends its hold by itself after so long")


class FollowRequest(BaseModel):
    """Where the leads of volumes are that other nodes write, too."""

    attempt: int = Field(ge=1)
    leads: dict[UUID, str] = Field(description="By volume: host:port of the lead's filter")


class BarrierStep(BaseModel):
    """Hold, cut or release, for one attempt."""

    attempt: int = Field(ge=1)
    abandoned: bool = Field(False, description="Of a release: nobody will read the frozen views")


class BarrierStatus(BaseModel):
    """How far a node is with the barrier of a session's attempt.

    Times are seconds since 1970 by the node's own clock. They are evidence for people, and nothing
    is decided by them.
    """

    attempt: int
    means: HoldMeans
    held_at: NodeTime | None = None
    cut_at: NodeTime | None = None
    released_at: NodeTime | None = None
    unbroken: bool = Field(
        False, description="Whether the hold was unbroken when the release reached the node"
    )
    leads: dict[UUID, str] = Field(
        default_factory=dict,
        description="Where followers find the filter of each volume that this node leads",
    )


class CaptureStatus(BaseModel):
    """How far a capture is."""

    session: UUID
    capture: UUID
    boot: UUID
    state: Literal["reading", "complete", "aborted"]
    read_bytes: int
    code: str | None = None
    message: str | None = None


class NodeReport(BaseModel):
    """All captures of an agent process, which it pushes when one changes and every few seconds."""

    boot: UUID
    captures: list[CaptureStatus]


class EndedCapture(BaseModel):
    """A capture whose session has ended."""

    capture: UUID
    sealed: bool
    distrusted: bool = Field(False, description="What the tracker said was found untrue")


class ReportAnswer(BaseModel):
    """What a coordinator says to a report."""

    ended: list[EndedCapture]


class Outcome(BaseModel):
    """How the session of a capture ended."""

    sealed: bool
    distrusted: bool = Field(False, description="What the tracker said was found untrue")
