"""The key-encryption key (KEK): the one secret that an operator must keep outside of the store."""

import os
import re

from blake3 import blake3

from libs.errors import ConfigurationError

KEK_SIZE_BYTES = 32
FINGERPRINT_SIZE_BYTES = 8


class KeyEncryptionKey:
    """A 32-byte secret that wraps the keys of domains, and its short public fingerprint.

    Args:
        secret: 32 bytes.

    Raises:
        ConfigurationError: not 32 bytes.
    """

    __slots__ = ("fingerprint", "secret")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEK_SIZE_BYTES:
            raise ConfigurationError(
                f"key-encryption key: expected {KEK_SIZE_BYTES} bytes, got {len(secret)}"
            )
        self.secret = secret
        #: 8 bytes that tell keys apart and reveal nothing; printed in hex, kept beside what the key
        #: wraps.
        self.fingerprint = blake3(
            secret, derive_key_context="backcast key-encryption key fingerprint 1"
        ).digest(FINGERPRINT_SIZE_BYTES)

    def __repr__(self) -> str:
        """The fingerprint; never the secret."""
        return f"KeyEncryptionKey({self.fingerprint.hex()})"

    @staticmethod
    def generate() -> "KeyEncryptionKey":
        """A new key from the system's random generator."""
        return KeyEncryptionKey(os.urandom(KEK_SIZE_BYTES))

    @staticmethod
    def parse(text: str) -> "KeyEncryptionKey":
        """Read a key file's content: 64 hexadecimal characters, white space around them allowed.

        Raises:
            ConfigurationError: the text is something else; it is not repeated in the message.
        """
        stripped = text.strip()
        if not re.fullmatch(r"[0-9a-fA-F]{64}", stripped):
            raise ConfigurationError(
                f"key file: expected {2 * KEK_SIZE_BYTES} hexadecimal characters, got "
                f"{len(stripped)} characters; give the file that `backcast keys` made, or rebuild "
                f"it from the recovery sheet"
            )
        return KeyEncryptionKey(bytes.fromhex(stripped))

    def text(self) -> str:
        """The content of a key file."""
        return self.secret.hex() + "\n"
