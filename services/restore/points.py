"""Recovery points as they are written in paths: latest, 12, 2026-11-22T10:00:00Z, -15m."""

import re
from datetime import datetime, timedelta

from libs.catalogdb.snapshots.points import Point
from libs.errors import BadInputError

_SEQUENCE = re.compile(r"[1-9][0-9]{0,9}")
_AGO = re.compile(r"-([0-9]{1,9})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
#: Sequences are int4 in the catalog.
_SEQUENCE_MAX = 2**31 - 1
#: Longer ago than any snapshot: some 270 years.
_AGO_MAX = timedelta(days=100_000)


def parse_point(text: str) -> Point:
    """Read a recovery point.

    Raises:
        BadInputError: it has none of the four forms.
    """
    if text == "latest":
        return Point()
    if _SEQUENCE.fullmatch(text) and int(text) <= _SEQUENCE_MAX:
        return Point(sequence=int(text))
    if ago := _AGO.fullmatch(text):
        return Point(ago=_ago(int(ago[1]), _UNITS[ago[2]]))
    at = _instant(text)
    if at is None:
        raise BadInputError(
            f"recovery point {text[:80]!r}: expected 'latest', the number of a snapshot, an "
            f"instant such as 2026-11-22T10:00:00Z, or how long ago, such as -15m (s, m, h, d)"
        )
    return Point(at=at)


def _ago(count: int, unit: str) -> timedelta:
    seconds = count * timedelta(**{unit: 1}).total_seconds()
    return timedelta(seconds=min(seconds, _AGO_MAX.total_seconds()))


def _instant(text: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if "T" in text and at.tzinfo is not None else None
