"""Cursors of the event feed: where a reader goes on, told to nobody.

Positions of the log count the events of all tenants. Whoever sees two of them sees how active the
others were in between. So a tenant gets positions encrypted and authenticated (AES-256-GCM), under
a key that is derived from the key-encryption key for this purpose and this tenant alone. A cursor
is good at every instance of the service and after a restart, for one tenant, and until the
key-encryption key that it was made under is given up. It differs each time, also where nothing has
moved, and its length says only how many topics it is for. The services keep none.

    cursor     URL-safe base64 without padding of: nonce (12 bytes), sealed positions, tag (16)
    positions  for each topic: length of its name (1), its name, position (8, big-endian)
"""

import base64
import binascii
import os
import struct
from collections.abc import Iterable, Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from libs.errors import BadInputError
from libs.events.topics import RELAYED_TOPICS
from libs.keys.kek import KEK_SIZE_BYTES, KeyEncryptionKey

#: What nobody else derives from the key-encryption key; the tenant follows.
_LABEL = b"backcast event cursor 1\0"
#: Drawn at random: a tenant's key is good for 2^32 of them.
_NONCE_SIZE_BYTES = 12
#: A cursor of all topics has about 500 characters.
_LENGTH_MAX = 4096
_POSITION = struct.Struct(">Q")


class TenantCursors:
    """The cursors of one tenant. Thread-safe.

    Args:
        kek: its key makes cursors; that of the previous one still opens them.
        tenant: name of the tenant.
    """

    def __init__(self, kek: KeyEncryptionKey, tenant: str) -> None:
        keys = [kek] if kek.previous is None else [kek, kek.previous]
        self._ciphers = [AESGCM(_derived(key, tenant)) for key in keys]
        self._tenant = tenant

    def seal(self, positions: Mapping[str, int]) -> str:
        """A cursor that means these positions. It begins with no dash, as options do."""
        while True:
            nonce = os.urandom(_NONCE_SIZE_BYTES)
            sealed = self._ciphers[0].encrypt(nonce, _packed(positions), None)
            made = base64.urlsafe_b64encode(nonce + sealed).decode().rstrip("=")
            if not made.startswith("-"):
                return made

    def open(self, text: str, topics: Iterable[str] = ()) -> dict[str, int]:
        """Position per topic.

        Args:
            text: the cursor; empty = from the beginning.
            topics: the topics that were asked for; empty = those of the cursor, or all. Those that
                the cursor does not have are read from their beginning.

        Raises:
            BadInputError: not a cursor of this tenant, or not a topic of the log.
        """
        for topic in topics:
            if topic not in RELAYED_TOPICS:
                raise BadInputError(
                    f"topic {topic[:80]!r}: the catalog's log has {', '.join(RELAYED_TOPICS)}"
                )
        positions = _unpacked(self._opened(text)) if text else {}
        wanted = tuple(topics) or tuple(positions) or RELAYED_TOPICS
        return {topic: positions.get(topic, 0) for topic in wanted}

    def _opened(self, text: str) -> bytes:
        raw = _decoded(text)
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(raw[:_NONCE_SIZE_BYTES], raw[_NONCE_SIZE_BYTES:], None)
            except (InvalidTag, ValueError):  # another key's; too short for a nonce
                continue
        raise BadInputError(
            f"cursor {text[:16]!r}…: is none that tenant {self._tenant} was given under the "
            f"present key-encryption key; give the `next` of a page or the `cursor` of an event, "
            f"or begin without one"
        )


def _derived(kek: KeyEncryptionKey, tenant: str) -> bytes:
    info = _LABEL + tenant.encode()
    return HKDF(hashes.SHA256(), KEK_SIZE_BYTES, None, info).derive(kek.secret)


def _decoded(text: str) -> bytes:
    """The bytes of a cursor; b'' if it cannot be one."""
    if len(text) > _LENGTH_MAX:
        return b""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):  # ValueError: not ASCII
        return b""


def _packed(positions: Mapping[str, int]) -> bytes:
    parts = []
    for topic, position in positions.items():
        name = topic.encode()
        parts.append(bytes([len(name)]) + name + _POSITION.pack(position))
    return b"".join(parts)


def _unpacked(packed: bytes) -> dict[str, int]:
    """What `_packed` packed: it was authenticated, so it is well formed."""
    positions, at = dict[str, int](), 0
    while at < len(packed):
        end = at + 1 + packed[at]
        (position,) = _POSITION.unpack_from(packed, end)
        positions[packed[at + 1 : end].decode()] = position
        at = end + _POSITION.size
    # A topic of another release is none that can be read here.
    return {topic: position for topic, position in positions.items() if topic in RELAYED_TOPICS}
