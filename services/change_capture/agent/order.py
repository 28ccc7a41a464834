"""What the coordinator tells an agent to capture."""

from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from libs.keys.keyring import fingerprint_secret
from services.change_capture.drivers.port import SourceOrder


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
    #: Attempt at the session's barrier whose frozen view is read; 0: there is no barrier.
    cut_attempt: int = 0
    #: By which driver.
    driver: str = "scan"
    #: False: what was tracked since this base was found untrue.
    is_trusted: bool = True
    #: Chunks that the client says have changed since the base, as `libs.ranges.pack_runs`.
    hints: bytes | None = field(repr=False, default=None)

    def source(self) -> SourceOrder:
        """What its driver is told."""
        return SourceOrder(
            volume=self.volume,
            session=self.session,
            path=self.path,
            base=self.base,
            is_trusted=self.is_trusted,
            secret=fingerprint_secret(self.id_key),
            hints=self.hints,
        )
