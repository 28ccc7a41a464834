"""Recovery points as people write them: NAME@latest, NAME@12, NAME@2026-11-22T10:00:00Z, NAME@-15m.

Here is what is written, for the command and for the paths of REST. Which snapshot a point means is
found in the catalog (`libs.catalogdb.snapshots.points`), by its clock.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import quote

from libs.errors import BadInputError
from libs.ids import check_name

LATEST = "latest"
_SEQUENCE = re.compile(r"[1-9][0-9]{0,9}")
#: Sequences are int4 in the catalog.
_SEQUENCE_MAX = 2**31 - 1
_AGO = re.compile(r"-([0-9]{1,9})([smhd])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
#: Longer ago than any snapshot: some 270 years. Postgres cannot subtract much more.
_AGO_MAX = timedelta(days=100_000)


@dataclass(frozen=True, slots=True)
class RecoveryPoint:
    """A volume or group, and a moment of it in one of the four forms.

    At most one of `sequence`, `at` and `ago` is set; none is the newest snapshot.

    Args:
        name: of a volume or group.
        moment: what is written after the '@'.

    Raises:
        BadInputError: no such name, or the moment has none of the four forms.
    """

    name: str
    moment: str

    def __post_init__(self) -> None:
        check_name("volume or group", self.name)
        if self.moment != LATEST and not (self.sequence or self.ago is not None or self.at):
            raise BadInputError(
                f"recovery point {str(self)[:160]!r}: expected {self.name}@latest, {self.name}@12 "
                f"(the number of a snapshot), {self.name}@2026-11-22T10:00:00Z (with Z or an "
                f"offset) or {self.name}@-15m (how long ago: s, m, h, d)"
            )

    @staticmethod
    def parse(text: str, *, otherwise: str | None = None) -> "RecoveryPoint":
        """Read NAME@POINT.

        Args:
            text: what was typed.
            otherwise: the point that NAME alone means; None = it must be written.

        Raises:
            BadInputError: as for the class; says which forms there are.
        """
        name, at, moment = text.partition("@")
        return RecoveryPoint(name, moment if at or otherwise is None else otherwise)

    def __str__(self) -> str:
        return f"{self.name}@{self.moment}"

    @property
    def sequence(self) -> int | None:
        """Number of the snapshot in its group."""
        if not _SEQUENCE.fullmatch(self.moment) or int(self.moment) > _SEQUENCE_MAX:
            return None
        return int(self.moment)

    @property
    def at(self) -> datetime | None:
        """The newest snapshot sealed at or before this instant is meant."""
        try:
            at = datetime.fromisoformat(self.moment) if "T" in self.moment else None
        except ValueError:
            return None
        return at if at and at.tzinfo else None

    @property
    def ago(self) -> timedelta | None:
        """The newest snapshot sealed at least so long ago, by the catalog's clock, is meant."""
        written = _AGO.fullmatch(self.moment)
        if not written:
            return None
        seconds = int(written[1]) * _UNIT_SECONDS[written[2]]
        return timedelta(seconds=min(seconds, _AGO_MAX.total_seconds()))

    @property
    def path(self) -> str:
        """Its path below the tenant's in the REST interface."""
        return f"/volumes/{quote(self.name)}/points/{quote(self.moment, safe='')}"
