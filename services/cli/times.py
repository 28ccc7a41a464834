"""Durations as people type them: ``90s``, ``15m``, ``26h``, ``30d``."""

import re

from libs.errors import BadInputError

_DURATION = re.compile(r"([0-9]{1,9})([smhd])")
UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds_of(option: str, text: str) -> int:
    """The seconds of a duration.

    Raises:
        BadInputError: it is none; ``option`` says where it stands.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise BadInputError(f"{option} {text!r}: expected a number and s, m, h or d, such as 30d")
    return int(match[1]) * UNIT_SECONDS[match[2]]
