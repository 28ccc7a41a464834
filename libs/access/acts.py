"""What the audit log records, and how its records are chained (docs/formats/audit.md)."""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime

#: What the digest of the first record covers in the place of an earlier one's.
GENESIS = bytes(hashlib.sha256().digest_size)

_FORM = "backcast-audit-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What somebody did, or was refused. Its texts are bounded by whoever made it."""

    at: datetime
    #: The service that was asked.
    service: str
    #: Name of the token.
    token: str
    #: What the token may do.
    roles: tuple[str, ...]
    #: Address of the client, or of the proxy before the service.
    address: str
    #: Tenant of the path; '*' on paths that have none.
    tenant: str
    method: str
    #: The path with the names of its parameters.
    route: str
    #: The path and query as they were sent.
    target: str
    #: HTTP status of the answer.
    status: int


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A record of the chain."""

    #: From 1, without gaps.
    number: int
    act: Act
    digest: bytes


def instant(at: datetime) -> str:
    """The time of an act as its digest covers it: UTC, with six digits of a second."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def canonical(number: int, act: Act) -> bytes:
    """The bytes of a record that its digest covers."""
    fields = [
        _FORM,
        number,
        instant(act.at),
        act.service,
        act.token,
        list(act.roles),
        act.address,
        act.tenant,
        act.method,
        act.route,
        act.target,
        act.status,
    ]
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def chained(previous: bytes, number: int, act: Act) -> AuditRecord:
    """The record of an act.

    Args:
        previous: digest of the record before it; `GENESIS` before the first one.
        number: of the new record.
        act: what it records.
    """
    digest = hashlib.sha256(previous + canonical(number, act)).digest()
    return AuditRecord(number, act, digest)
