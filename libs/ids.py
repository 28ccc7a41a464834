"""Identifiers and names: what they are made of, how they are written, and how input is checked.

Digests identify bytes (`libs.packs.chunk`); the identifiers here name things that are made once.
"""

import os
import re
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from libs.errors import BadInputError

#: Tenants, volumes, groups and nodes: what a person types, safe in URLs, paths and object keys.
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")
_VERSION_OF_TIME = 7


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """A node by its name and by which of its credentials it is meant; no secret."""

    name: str
    #: None: it has none (it was forgotten, or only manifests name it).
    credential: uuid.UUID | None


def uuid7(unix_milliseconds: int | None = None, randomness: bytes | None = None) -> uuid.UUID:
    """A time-ordered identifier (RFC 9562, version 7): of events, sessions, attempts, data keys.

    Args:
        unix_milliseconds: time to encode; the system clock if None. Order by it is a convenience
            for people; no correctness rests on it.
        randomness: 10 random bytes; from the system if None.
    """
    at = time.time_ns() // 1_000_000 if unix_milliseconds is None else unix_milliseconds
    tail = os.urandom(10) if randomness is None else randomness
    raw = bytearray(at.to_bytes(6, "big") + tail)
    raw[6] = 0x70 | raw[6] & 0x0F
    raw[8] = 0x80 | raw[8] & 0x3F
    return uuid.UUID(bytes=bytes(raw))


def time_of_uuid7(identifier: uuid.UUID) -> datetime | None:
    """The time that a `uuid7` encodes; None: it is no such id, or names a year after 9999."""
    if identifier.version != _VERSION_OF_TIME:
        return None
    try:
        return datetime.fromtimestamp((identifier.int >> 80) / 1000, UTC)
    except (ValueError, OverflowError):
        return None


def new_generation() -> uuid.UUID:
    """The random 128-bit name of a pack; the catalog refuses one that was ever used."""
    return uuid.UUID(bytes=os.urandom(16))


def check_name(kind: str, name: str) -> str:
    """Return ``name`` if it is a valid name for a ``kind`` (tenant, volume, group, node).

    Raises:
        BadInputError: not 1 to 63 characters of a-z, 0-9, '.', '_', '-', beginning and ending with
            a letter or digit. '@' is excluded because it separates a name from a recovery point.
    """
    if not _NAME.fullmatch(name):
        raise BadInputError(
            f"{kind} name {name!r}: expected 1 to 63 characters of a-z, 0-9, '.', '_' and '-', "
            f"beginning and ending with a letter or digit"
        )
    return name
