"""Recovery points as people write them: NAME@latest, NAME@12, NAME@2026-11-22T10:00:00Z, NAME@-15m.

The service knows what a point means (its clock, its snapshots); here only the form is checked.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from libs.errors import BadInputError
from libs.ids import check_name

LATEST = "latest"
_SEQUENCE = re.compile(r"[1-9][0-9]{0,9}")
_AGO = re.compile(r"-[0-9]{1,9}[smhd]")


@dataclass(frozen=True, slots=True)
class RecoveryPoint:
    """A volume or group, and a moment of it in one of the four forms."""

    name: str
    point: str

    def __str__(self) -> str:
        return f"{self.name}@{self.point}"

    @property
    def path(self) -> str:
        """Its path below the tenant's in the REST interface."""
        return f"/volumes/{quote(self.name)}/points/{quote(self.point, safe='')}"


def parse_point(text: str, *, otherwise: str | None = None) -> RecoveryPoint:
    """Read NAME@POINT.

    Args:
        text: what was typed.
        otherwise: the point that NAME alone means; None = it must be written.

    Raises:
        BadInputError: no such form; says which there are.
    """
    name, at, point = text.partition("@")
    check_name("volume or group", name)
    if not at and otherwise is not None:
        return RecoveryPoint(name, otherwise)
    if point == LATEST or _SEQUENCE.fullmatch(point) or _AGO.fullmatch(point) or _instant(point):
        return RecoveryPoint(name, point)
    raise BadInputError(
        f"recovery point {text!r}: expected {name}@latest, {name}@12, "
        f"{name}@2026-11-22T10:00:00Z (with Z or an offset) or {name}@-15m (s, m, h, d)"
    )


def _instant(text: str) -> bool:
    try:
        return "T" in text and datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
