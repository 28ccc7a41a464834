"""What coordinator and agents say to each other over HTTP."""

from typing import Annotated, Literal
from uuid import UUID

from annotated_types import MaxLen
from pydantic import Base64Bytes, Base64Encoder, BaseModel, EncodedBytes, Field

from libs.ranges import HINTS_SIZE_BYTES_MAX

#: Longest body of a request that carries hints: they are in Base64, and the rest is short.
HINTS_BODY_SIZE_BYTES_MAX = HINTS_SIZE_BYTES_MAX // 3 * 4 + (1 << 20)


#: Runs of chunks, ascending, 12 bytes each (`libs.ranges.pack_runs`), in Base64.
Hints = Annotated[bytes, MaxLen(HINTS_SIZE_BYTES_MAX // 3 * 4), EncodedBytes(encoder=Base64Encoder)]


class NodeAnnouncement(BaseModel):
    """An agent tells where it can be reached and which process it is."""

    name: str = Field(description="Name of the node")
    rpc_url: str = Field(description="Base URL of the agent's RPC")
    span_address: str = Field(description="host:port that chunkers dial")
    boot: UUID = Field(description="Changes with every start of the agent process")


class ProbeRequest(BaseModel):
    """Look at a path that is to become a volume."""

    path: str


class ProbeResponse(BaseModel):
    """The path can be captured."""

    size_bytes: int


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
    driver: str = Field("scan", description="How the volume is read and its changes are known")
    is_trusted: bool = Field(
        True, description="False: what was tracked since this base was found untrue"
    )
    hints: Hints | None = Field(None, description="Chunks that may have changed")


class CaptureStatus(BaseModel):
    """How far a capture is."""

    capture: UUID
    boot: UUID
    state: Literal["reading", "complete", "aborted"]
    read_bytes: int
    code: str | None = None
    message: str | None = None


class Outcome(BaseModel):
    """How the session of a capture ended."""

    sealed: bool
    distrusted: bool = Field(False, description="What the tracker said was found untrue")
