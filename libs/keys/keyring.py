"""Keys of a domain: generated, wrapped as an object of the bucket, and what is derived from them.

    key-encryption key ── wraps ──▶ id key ────▶ chunk ids, map node ids, fingerprint secret
                                    data key ──▶ pack keys (one per generation), manifest key

An agent is given the id key, never the data key. A new data key (new key id) may follow at any
time; a new id key would start a new domain, because ids would no longer be equal.
"""

import os
import struct
import uuid
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from libs.errors import DamagedDataError
from libs.ids import uuid7
from libs.keys.kek import FINGERPRINT_SIZE_BYTES, KeyEncryptionKey
from libs.store.layout import DomainKeyName, domain_key_object, expect_object

_MAGIC = b"BCASTKY\x00"
_VERSION = 1
_KEY_SIZE_BYTES = 32
_NONCE_SIZE_BYTES = 12
#: magic, version, zeros, domain, key id, fingerprint of the key-encryption key, nonce.
_HEADER = struct.Struct(f"<8sH6s16s16s{FINGERPRINT_SIZE_BYTES}s{_NONCE_SIZE_BYTES}s")
_ZEROS = bytes(6)
#: Length of a wrapped-key object: header, id key and data key encrypted, tag.
WRAPPED_SIZE_BYTES = _HEADER.size + 2 * _KEY_SIZE_BYTES + 16


@dataclass(frozen=True, slots=True)
class DomainKeys:
    """The secrets of one domain under one key id; never logged (`repr` shows ids only)."""

    domain: uuid.UUID
    #: Names the data key; it is in the header of everything sealed under it. A `uuid7`, so that
    #: lists can say when the key was made; of earlier releases random.
    key_id: uuid.UUID
    #: 32 bytes: keys the identity of chunks and map nodes.
    id_key: bytes = field(repr=False)
    #: 32 bytes: every encryption key is derived from it.
    data_key: bytes = field(repr=False)

    @staticmethod
    def generate(domain: uuid.UUID) -> "DomainKeys":
        """Keys of a new domain, from the system's random generator; the key id has the time."""
        return DomainKeys(domain, uuid7(), os.urandom(_KEY_SIZE_BYTES), os.urandom(_KEY_SIZE_BYTES))

    def with_new_data_key(self) -> "DomainKeys":
        """The same identity with a fresh data key and key id, for what is written from now on."""
        fresh = DomainKeys.generate(self.domain)
        return DomainKeys(self.domain, fresh.key_id, self.id_key, fresh.data_key)

    def pack_key(self, generation: uuid.UUID) -> bytes:
        """32 bytes that open this one pack and nothing else: what a restore plan hands out."""
        return _derive(self.data_key, b"backcast pack 1" + generation.bytes)

    def manifest_key(self) -> bytes:
        """32 bytes for `libs.packs.manifest`."""
        return _derive(self.data_key, b"backcast manifest 1")


def fingerprint_secret(id_key: bytes) -> bytes:
    """32 bytes that seed change fingerprints; an agent derives them from its id key."""
    return _derive(id_key, b"backcast fingerprint 1")


def wrap(keys: DomainKeys, kek: KeyEncryptionKey) -> bytes:
    """The object of WRAPPED_SIZE_BYTES that holds the keys; it is stored before their first use.

    The nonce is random, so each call gives other bytes that hold the same keys.
    """
    return _wrap(keys, kek, os.urandom(_NONCE_SIZE_BYTES))


def _wrap(keys: DomainKeys, kek: KeyEncryptionKey, nonce: bytes) -> bytes:
    header = _HEADER.pack(
        _MAGIC, _VERSION, _ZEROS, keys.domain.bytes, keys.key_id.bytes, kek.fingerprint, nonce
    )
    return header + _wrapper(kek).encrypt(nonce, keys.id_key + keys.data_key, header)


def unwrap(wrapped: bytes, name: DomainKeyName, kek: KeyEncryptionKey) -> DomainKeys:
    """Read an object that `wrap` made.

    Args:
        wrapped: the object.
        name: what it was asked for as.
        kek: the key-encryption key, or the previous one that it has with it.

    Raises:
        WrongKeyError: it was wrapped by another key-encryption key; the message names the
            fingerprints.
        DamagedDataError: the object was changed or cut, or it holds other keys.
    """
    if len(wrapped) != WRAPPED_SIZE_BYTES:
        raise DamagedDataError(
            f"wrapped keys: expected {WRAPPED_SIZE_BYTES} bytes, got {len(wrapped)}"
        )
    magic, version, zeros, domain, key_id, fingerprint, nonce = _HEADER.unpack_from(wrapped)
    if (magic, version, zeros) != (_MAGIC, _VERSION, _ZEROS):
        raise DamagedDataError(
            f"wrapped keys: expected {_MAGIC!r} version {_VERSION}, got {magic!r} version {version}"
        )
    said = DomainKeyName(
        uuid.UUID(bytes=domain),
        uuid.UUID(bytes=key_id),
        None if name.wrapped_by is None else fingerprint.hex(),
    )
    label = f"wrapped keys {said.key_id} of domain {said.domain}"
    opener = kek.opening(label, fingerprint)
    try:
        secrets = _wrapper(opener).decrypt(nonce, wrapped[_HEADER.size :], wrapped[: _HEADER.size])
    except InvalidTag as err:
        raise DamagedDataError(
            f"{label}: the object is damaged or was altered; restore it from a copy of the bucket"
        ) from err
    expect_object(domain_key_object(name), domain_key_object(said))
    return DomainKeys(
        said.domain, said.key_id, secrets[:_KEY_SIZE_BYTES], secrets[_KEY_SIZE_BYTES:]
    )


def rewrap(keys: DomainKeys, kek: KeyEncryptionKey) -> tuple[DomainKeyName, bytes]:
    """Name and bytes of the object that holds keys under a new key-encryption key.

    The same bytes for the same arguments, so that whoever goes on after a crash, and two who do it
    at once, write one content under one name. The nonce is a function of the plain text that only
    this key-encryption key gives, so it repeats with the same plain text alone.
    """
    seed = keys.domain.bytes + keys.key_id.bytes + keys.id_key + keys.data_key
    nonce = _derive(kek.secret, b"backcast key rewrap nonce 1" + seed)[:_NONCE_SIZE_BYTES]
    name = DomainKeyName(keys.domain, keys.key_id, kek.fingerprint.hex())
    return name, _wrap(keys, kek, nonce)


def wrapped_by(wrapped: bytes) -> bytes:
    """Fingerprint of the key-encryption key that an object says it is wrapped by; not proved.

    Raises:
        DamagedDataError: the object is cut.
    """
    if len(wrapped) < _HEADER.size:
        raise DamagedDataError(
            f"wrapped keys: expected {WRAPPED_SIZE_BYTES} bytes, got {len(wrapped)}"
        )
    fingerprint: bytes = _HEADER.unpack_from(wrapped)[5]
    return fingerprint


def _wrapper(kek: KeyEncryptionKey) -> AESGCM:
    return AESGCM(_derive(kek.secret, b"backcast key wrap 1"))


def _derive(secret: bytes, info: bytes) -> bytes:
    return HKDF(hashes.SHA256(), _KEY_SIZE_BYTES, None, info).derive(secret)
