"""Dialling agents: with TLS or without, and whom to expect there."""

from ssl import TLSVersion
from uuid import UUID

from libs.catalogdb.sessions.session import PartView
from libs.runtime.tls import ClientTls
from libs.spans.connection import SpanConnection, SpanTls
from services.chunker.settings import Settings


class Dialler:
    """Connects to the agents of parts. Thread-safe.

    With a CA file every agent must prove who it is. Without one, agents on loopback are spoken to
    without TLS, and others are verified by the system's authorities; see `Settings.plaintext`.

    Args:
        settings: of the chunker.

    Raises:
        ConfigurationError: the CA file cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._trusted = ClientTls(settings.ca_file, TLSVersion.TLSv1_3)

    def __call__(self, part: PartView, boot: UUID) -> SpanConnection:
        """One attempt to connect; raises what `SpanConnection` does."""
        host = part.span_address.rpartition(":")[0]
        tls = None
        if self._settings.ca_file or not self._settings.may_speak_plainly(host):
            tls = SpanTls(self._trusted.current(), self._settings.agent_tls_name or part.node)
        return SpanConnection(part.span_address, part.capture, boot, part.token, tls=tls)


def dial_plainly(part: PartView, boot: UUID) -> SpanConnection:
    """Connect without TLS."""
    return SpanConnection(part.span_address, part.capture, boot, part.token)
