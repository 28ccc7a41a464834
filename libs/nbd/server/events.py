"""What a server's session tells its transport, which acts and answers."""

import enum
from dataclasses import dataclass
from typing import TypeAlias

from libs.nbd.export import Export
from libs.nbd.layout import Command, CommandFlag, Option


class TlsMode(enum.Enum):
    """Whether a server speaks TLS."""

    #: It has no certificate.
    NONE = "none"
    #: It does if the client asks.
    OFFERED = "offered"
    #: Nothing but STARTTLS and ABORT is granted without.
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class TlsAsked:
    """Send the output, do the server's handshake of TLS, then call `tls_started`."""


@dataclass(frozen=True, slots=True)
class ListAsked:
    """Answer with `list_exports` or `refuse`."""


@dataclass(frozen=True, slots=True)
class ExportAsked:
    """Look the export up, and answer with `offer` or `refuse`."""

    name: str
    #: EXPORT_NAME and GO enter it; the others only ask about it.
    option: Option


@dataclass(frozen=True, slots=True)
class Entered:
    """The handshake is over: requests follow."""

    export: Export
    #: Names of the chosen metadata contexts by their ids.
    contexts: dict[int, str]


@dataclass(frozen=True, slots=True)
class StandingSession:
    """A session between two requests, without its export."""

    is_structured: bool
    #: Names of the chosen metadata contexts by their ids.
    contexts: dict[int, str]
    #: What was received and not understood yet.
    unread: bytes


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The client has said goodbye. Serve what is in flight, send the output, then close."""


class Request:
    """What a client asks for. One that is told is valid: within the export, aligned and allowed.

    The session counts it as in flight until it is answered.
    """

    __slots__ = (
        "command", "cookie", "flags", "has_failed", "is_answered", "is_receiving", "length",
        "offset", "sent_bytes", "status_count",
    )  # fmt: skip

    def __init__(self, command: int, flags: int, cookie: int, offset: int, length: int) -> None:
        self.command = command
        self.flags = flags
        #: Only the client knows what it means; two requests may have the same one.
        self.cookie = cookie
        self.offset = offset
        self.length = length
        self.is_answered = False
        #: Whether the payload of a WRITE is still to come.
        self.is_receiving = command == Command.WRITE
        #: Whether an error chunk with an offset was sent.
        self.has_failed = False
        #: Of a READ: bytes that were sent or named as holes.
        self.sent_bytes = 0
        #: Of a BLOCK_STATUS: contexts that were answered.
        self.status_count = 0

    @property
    def is_fua(self) -> bool:
        """Whether what it writes must be on stable storage before the answer."""
        return bool(self.flags & CommandFlag.FUA)

    def __repr__(self) -> str:
        return (
            f"request {Command(self.command).name} of {self.length} bytes at {self.offset}, "
            f"flags {self.flags}, cookie {self.cookie:#x}"
        )


@dataclass(slots=True)
class Piece:
    """Bytes of a WRITE's payload for which no destination was given; void at the next `buffer`."""

    request: Request
    #: Where in the payload they begin.
    position: int
    data: memoryview


@dataclass(slots=True)
class PayloadReceived:
    """All of a WRITE's payload has come."""

    request: Request


Event: TypeAlias = (
    TlsAsked | ListAsked | ExportAsked | Entered | Disconnected | Request | Piece | PayloadReceived
)
