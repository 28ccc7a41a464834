"""The key-encryption key (KEK): the one secret that an operator must keep outside of the store."""

import os
import re
from typing import Protocol

from blake3 import blake3

from libs.errors import ConfigurationError, WrongKeyError

KEK_SIZE_BYTES = 32
FINGERPRINT_SIZE_BYTES = 8


class Revealing(Protocol):
    """A secret of settings."""

    def reveal(self) -> str:
        """The secret itself."""
        ...


class KeyEncryptionKey:
    """A 32-byte secret that wraps the keys of domains, and its short public fingerprint.

    Args:
        secret: 32 bytes.
        previous: the one that was used before. It still opens what it wrapped, and wraps nothing.

    Raises:
        ConfigurationError: not 32 bytes, or the previous one is the same.
    """

    __slots__ = ("fingerprint", "previous", "secret")

    def __init__(self, secret: bytes, previous: "KeyEncryptionKey | None" = None) -> None:
        if len(secret) != KEK_SIZE_BYTES:
            raise ConfigurationError(
                f"key-encryption key: expected {KEK_SIZE_BYTES} bytes, got {len(secret)}"
            )
        if previous is not None and previous.secret == secret:
            raise ConfigurationError(
                "previous key-encryption key: is the same as the key-encryption key; give the one "
                "that was used before, or none"
            )
        self.secret: bytes = secret
        self.previous = previous
        #: 8 bytes that tell keys apart and reveal nothing; printed in hex, kept beside what the key
        #: wraps.
        self.fingerprint = blake3(
            secret, derive_key_context="backcast key-encryption key fingerprint 1"
        ).digest(FINGERPRINT_SIZE_BYTES)

    def __repr__(self) -> str:
        """The fingerprint; never the secret."""
        return f"KeyEncryptionKey({self.fingerprint.hex()})"

    @property
    def alone(self) -> "KeyEncryptionKey":
        """The same without the previous one: what it opens stays open when that one is gone."""
        return KeyEncryptionKey(self.secret)

    def opening(self, label: str, fingerprint: bytes) -> "KeyEncryptionKey":
        """The key of this fingerprint: this one or the previous one.

        Args:
            label: what is to be opened, for the message.
            fingerprint: of the key that it was wrapped or sealed by.

        Raises:
            WrongKeyError: neither is; the message names the fingerprints.
        """
        accepted = [self] if self.previous is None else [self, self.previous]
        for key in accepted:
            if key.fingerprint == fingerprint:
                return key
        raise WrongKeyError(
            f"{label}: expected the key-encryption key {fingerprint.hex()}, got "
            f"{' and '.join(key.fingerprint.hex() for key in accepted)}; give the right key file"
        )

    @staticmethod
    def generate() -> "KeyEncryptionKey":
        """A new key from the system's random generator."""
        return KeyEncryptionKey(os.urandom(KEK_SIZE_BYTES))

    @staticmethod
    def parse(text: str, previous: str | None = None) -> "KeyEncryptionKey":
        """Read a key file's content: 64 hexadecimal characters, white space around them allowed.

        Args:
            text: the content.
            previous: that of the file with the key that was used before, if it is still accepted.

        Raises:
            ConfigurationError: a text is something else; it is not repeated in the message. Or
                both are the same key.
        """
        before = None if previous is None else KeyEncryptionKey.parse(previous)
        stripped = text.strip()
        if not re.fullmatch(r"[0-9a-fA-F]{64}", stripped):
            raise ConfigurationError(
                f"key file: expected {2 * KEK_SIZE_BYTES} hexadecimal characters, got "
                f"{len(stripped)} characters; give the file that `backcast keys` made, or rebuild "
                f"it from the recovery sheet"
            )
        return KeyEncryptionKey(bytes.fromhex(stripped), before)

    @staticmethod
    def of(kek: "Revealing", previous: "Revealing | None") -> "KeyEncryptionKey":
        """That of a service's settings, with the one that it still accepts; errors as `parse`."""
        return KeyEncryptionKey.parse(kek.reveal(), None if previous is None else previous.reveal())

    def text(self) -> str:
        """The content of a key file."""
        return self.secret.hex() + "\n"
