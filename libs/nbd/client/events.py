"""What a client's session is for, and what its handshake ends with."""

from dataclasses import dataclass
from typing import TypeAlias

from libs.nbd.export import Export
from libs.nbd.layout import Option, OptionReply


@dataclass(frozen=True, slots=True)
class Enter:
    """Enter an export, and choose metadata contexts of it; those that it lacks are left out."""

    export: str
    contexts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Describe:
    """Ask what an export is, with the contexts that it has, and leave."""

    export: str


@dataclass(frozen=True, slots=True)
class ListExports:
    """Ask which exports there are, and leave."""


Purpose: TypeAlias = Enter | Describe | ListExports


@dataclass(frozen=True, slots=True)
class TlsGranted:
    """Do the client's handshake of TLS, then call `tls_started`."""


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The export is entered: requests may be made."""

    export: Export
    #: Ids of the chosen metadata contexts by their names.
    contexts: dict[str, int]
    is_structured: bool


@dataclass(frozen=True, slots=True)
class Described:
    """What the export is. The session is over."""

    export: Export


@dataclass(frozen=True, slots=True)
class Listed:
    """Names and descriptions of the exports. The session is over."""

    exports: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """The server refuses an option that the session cannot do without. The session is over."""

    option: Option
    #: One of the ERR replies, or a number of that kind which is not known here.
    reply: int
    #: The server's words; they may be empty.
    message: str

    def __str__(self) -> str:
        known = {int(reply): reply.name for reply in OptionReply}
        name = known.get(self.reply, f"{self.reply:#x}")
        return f"{self.option.name} refused with {name}" + f": {self.message}" * bool(self.message)


HandshakeEvent: TypeAlias = TlsGranted | Negotiated | Described | Listed | Refused
