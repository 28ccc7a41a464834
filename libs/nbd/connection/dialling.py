"""Finds a server and shakes hands with it; also asks it for its exports."""

import contextlib
import ssl
import time
from dataclasses import dataclass

from libs.errors import BackcastError, NotFoundError, SourceError, UnavailableError
from libs.nbd.client.events import (
    Describe,
    Described,
    HandshakeEvent,
    Listed,
    ListExports,
    Purpose,
    Refused,
    TlsGranted,
)
from libs.nbd.client.session import ClientSession
from libs.nbd.connection.wire import Wire
from libs.nbd.export import Export
from libs.nbd.layout import OptionReply
from libs.runtime.tls import ClientTls, explain

#: A server that says nothing for so long, while it owes an answer, is taken for dead.
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class NbdAddress:
    """Where a server is, and how it must prove who it is."""

    #: "unix:PATH" or "HOST:PORT".
    address: str
    #: Whom to trust; None: without TLS.
    tls: ClientTls | None = None
    #: That the server's certificate must have; the host of the address by default.
    server_name: str | None = None
    #: Longest wait for the server in one request.
    patience_seconds: float = PATIENCE_SECONDS

    def __str__(self) -> str:
        return f"NBD server at {self.address}"


def list_exports(where: NbdAddress) -> tuple[tuple[str, str], ...]:
    """Names and descriptions of a server's exports. Raises as `dial`."""
    event = _asked(where, ListExports())
    assert isinstance(event, Listed)
    return event.exports


def describe(where: NbdAddress, export: str) -> Export:
    """What an export is, with the contexts that it has. Raises as `dial`."""
    event = _asked(where, Describe(export))
    assert isinstance(event, Described)
    return event.export


def dial(where: NbdAddress, purpose: Purpose) -> tuple[Wire, ClientSession, HandshakeEvent]:
    """Connect and shake hands. The caller closes the wire.

    Raises:
        UnavailableError: nobody answers there, or it cannot prove who it is.
        NotFoundError: the server has no such export.
        SourceError: the server refuses something else.
        DamagedDataError: the server breaks the protocol.
        BadInputError: a name that the protocol does not allow.
    """
    session = ClientSession(str(where), purpose, has_tls=where.tls is not None)
    try:
        wire = Wire(where.address, where.patience_seconds)
    except (OSError, ValueError) as err:
        raise UnavailableError(f"{where}: {err}; is it running and reachable?") from err
    try:
        event = _shake_hands(where, wire, session)
        if isinstance(event, Refused):
            with contextlib.suppress(OSError):
                wire.send(session.take_output(), give_up)
            raise _refusal(where, event)
    except ssl.SSLCertVerificationError as err:
        wire.close()
        raise UnavailableError(f"{where}: {explain(err)}") from err
    except BlockingIOError as err:
        wire.close()
        raise UnavailableError(
            f"{where}: it took longer than {where.patience_seconds:g} s"
        ) from err
    except OSError as err:
        wire.close()
        raise UnavailableError(f"{where}: {err}") from err
    except BaseException:
        wire.close()
        raise
    return wire, session, event


def give_up() -> None:
    """What to do when a server takes no more, and nothing of ours is worth waiting for."""
    raise BlockingIOError("the server takes nothing")


def _asked(where: NbdAddress, purpose: Purpose) -> HandshakeEvent:
    wire, session, event = dial(where, purpose)
    with contextlib.suppress(OSError):
        wire.send(session.take_output(), give_up)
    wire.close()
    return event


def _shake_hands(where: NbdAddress, wire: Wire, session: ClientSession) -> HandshakeEvent:
    """Until there is an event that is not about TLS."""
    deadline = time.monotonic() + where.patience_seconds
    while True:
        while (event := session.next_event()) is not None:
            if not isinstance(event, TlsGranted):
                return event
            assert where.tls is not None, "TLS is granted to those who asked"
            host = where.address.rpartition(":")[0].strip("[]")
            wire.start_tls(where.tls.current(), where.server_name or host)
            session.tls_started()
        wire.send(session.take_output(), give_up)
        received = wire.receive_into(session.buffer(), is_whole=False)
        if not received:
            raise UnavailableError(f"{where}: it closed the connection within the handshake")
        session.received(received)
        if time.monotonic() > deadline:
            raise BlockingIOError


def _refusal(where: NbdAddress, event: Refused) -> BackcastError:
    message = f"{where}: {event}"
    match event.reply:
        case OptionReply.ERR_UNKNOWN:
            return NotFoundError(message)
        case OptionReply.ERR_SHUTDOWN:
            return UnavailableError(message)
    return SourceError(message)
