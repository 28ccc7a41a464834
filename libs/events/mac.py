"""Authenticity of events that agents write: a right to write to the topic is no proof of origin."""

import hmac
import struct

import blake3

from libs.errors import BadInputError
from libs.events.envelope import Envelope

#: Bytes of the secret that an agent and the chunker share for one capture.
TOKEN_SIZE_BYTES = 32
_CONTEXT = b"backcast event mac 1"
_LENGTH = struct.Struct("<Q")


def event_mac(token: bytes, envelope: Envelope, value: bytes) -> bytes:
    """Keyed BLAKE3 (32 bytes) over type, version, subject, tenant and the encoded value.

    Event id, time and position are not covered: a replay is recognised by what the value says.

    Raises:
        BadInputError: the token does not have 32 bytes.
    """
    if len(token) != TOKEN_SIZE_BYTES:
        raise BadInputError(f"event token: expected {TOKEN_SIZE_BYTES} bytes, got {len(token)}")
    mac = blake3.blake3(_CONTEXT, key=token)
    parts = (envelope.type, str(envelope.version), envelope.subject, envelope.tenant)
    for part in (*(text.encode() for text in parts), value):
        # With its length before each part, no two lists of parts give the same bytes.
        mac.update(_LENGTH.pack(len(part)))
        mac.update(part)
    return mac.digest()


def is_authentic(token: bytes, envelope: Envelope, value: bytes) -> bool:
    """Whether the envelope's MAC was made with this token for this value, in constant time."""
    if envelope.mac is None:
        return False
    return hmac.compare_digest(envelope.mac, event_mac(token, envelope, value))
