"""What the coordinator tells an agent to capture."""

from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID


@dataclass(frozen=True, slots=True)
class CaptureOrder:
    """One volume to capture for one session; `repr` shows no secret."""

    session: UUID
    capture: UUID
    tenant: str
    group: UUID
    volume: UUID
    path: Path
    #: Session of the base snapshot, or None.
    base: UUID | None
    #: Authenticates this capture's events and span connections.
    token: bytes = field(repr=False)
    #: The domain's identity key, for chunk ids and change fingerprints.
    id_key: bytes = field(repr=False)
