"""Events of `backcast.audit`: what the audit log records, for those who keep it elsewhere."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from libs.events.fields import Code, Count, Digest, Name

#: Longest path with its query that a record keeps, in characters.
TARGET_LENGTH_MAX = 500
#: Longest address of a client, in characters.
ADDRESS_LENGTH_MAX = 63

_Text = Annotated[str, Meta(max_length=TARGET_LENGTH_MAX)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActRecorded:
    """Emitted when the audit log got a record: a change, a read of data, or a refusal.

    Stream key: token. Ordering: by number, without gaps within one life of the log; a rebuilt
    catalog begins again at 1. A duplicate is harmless. With docs/formats/audit.md the chain of
    digests can be verified from these events alone.
    """

    number: Count
    #: RFC 3339, UTC, with six digits of a second.
    at: Code
    #: The service that was asked.
    service: Code
    #: Name of the token.
    token: Name
    #: What the token may do.
    roles: tuple[Code, ...]
    #: Address of the client, or of the proxy before the service.
    address: Annotated[str, Meta(max_length=ADDRESS_LENGTH_MAX)]
    #: Tenant of the path; '*' on paths that have none. The envelope's is always '*': the log is for
    #: administrators.
    tenant: Name
    method: Code
    #: The path with the names of its parameters.
    route: _Text
    #: The path and query as they were sent, cut.
    target: _Text
    #: HTTP status of the answer.
    status: Count
    #: SHA-256 over the digest of the record before it and over this record.
    digest: Digest
