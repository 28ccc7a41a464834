"""Targets: the objects of the store, and the files that an agent or an operator keeps.

What a MAC or an authentication tag protects is tried twice: as it lies in the bucket, where only
the original may open, and resealed under the right key, to reach the parser behind the seal.
"""

import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from libs.blockmap.node import decode_node, encode_node, node_size_bytes
from libs.errors import BadInputError, ConfigurationError, DamagedDataError, WrongKeyError
from libs.keys.kek import KeyEncryptionKey
from libs.keys.keyring import unwrap
from libs.keys.sheet import RecoverySheet, export_sheet, read_sheet
from libs.packs import manifest as manifests
from libs.packs.frame import Codec, FrameCipher, compress
from libs.packs.layout import (
    FRAME_OVERHEAD_SIZE_BYTES,
    GCM_TAG_SIZE_BYTES,
    MANIFEST_HEADER,
    MANIFEST_MAGIC,
    MANIFEST_VERSION,
    PACK_HEADER,
)
from libs.packs.trailer import (
    PackHeader,
    encode_footer,
    encode_frame_table,
    encode_trailer,
    parse_frame_table,
    read_pack_index,
)
from libs.ranges import ByteRange
from libs.store import layout
from services.change_capture.drivers.scan.fingerprints import FingerprintFile, FingerprintWriter
from tests.faults.fuzz.target import SEPARATOR, Target, parts_of, text_of
from tests.golden.make_formats import GENERATION, KEK, KEYS, LEAF, MANIFEST, UPPER, golden_pack

_PACK = golden_pack()
_PACK_KEY = KEYS.pack_key(GENERATION)
_CIPHER = FrameCipher(GENERATION, _PACK_KEY)
_MANIFEST = manifests.seal_manifest(MANIFEST, KEYS.key_id, KEYS.manifest_key(), b"s" * 16)
_WRAPPED = Path("tests/golden/keys/wrapped-v1.bin").read_bytes()
_KEYS_NAME = layout.DomainKeyName(KEYS.domain, KEYS.key_id)
_SHEET = RecoverySheet(KEK, "https://s3.example.org", "backups")
_FRAMES_END = 1 << 20
_SESSION, _IDENTITY = uuid.UUID(int=5), "ext4:0123"
_FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm"))


def _read_pack(data: bytes) -> None:
    def read_range(wanted: ByteRange) -> bytes:
        assert wanted.end <= len(data), "reads beyond the object"
        return data[wanted.start : wanted.end]

    def cipher_of(header: PackHeader) -> FrameCipher:
        return FrameCipher(header.generation, KEYS.pack_key(header.generation))

    index = read_pack_index(len(data), read_range, cipher_of)
    for number, frame in enumerate(index.frames):
        cipher_of(index.header).open(number, read_range(frame.byte_range), frame.plain_size_bytes)
    assert data == _PACK, "a changed pack was opened"


def _read_trailer(trailer: bytes) -> None:
    """The plain trailer, sealed into a pack as its writer would."""
    header = _PACK[: PACK_HEADER.size]
    sealed = bytearray(len(trailer) + GCM_TAG_SIZE_BYTES)
    _CIPHER.seal_trailer_into(trailer, header, memoryview(sealed))
    footer_at = _FRAMES_END + len(sealed)
    tail = bytes(sealed) + encode_footer(_FRAMES_END, sealed)

    def read_range(wanted: ByteRange) -> bytes:
        if wanted.start == 0:
            return header[: wanted.end]
        return tail[wanted.start - _FRAMES_END : wanted.end - _FRAMES_END]

    index = read_pack_index(_FRAMES_END + len(tail), read_range, lambda _: _CIPHER)
    assert encode_trailer(index.frames, index.items) == trailer
    assert all(frame.byte_range.end <= footer_at for frame in index.frames)


def _trailer_seeds() -> list[bytes]:
    index = read_pack_index(len(_PACK), lambda at: _PACK[at.start : at.end], lambda _: _CIPHER)
    return [encode_trailer(index.frames, index.items), encode_trailer((), ())]


def _read_frame(data: bytes) -> None:
    """Codec, plain length (u32) and body, sealed under the right key."""
    head = data[:5].ljust(5, b"\0")
    codec, plain_size_bytes, body = head[0], int.from_bytes(head[1:], "little"), data[5:]
    associated = _CIPHER._associated(0, codec, plain_size_bytes)
    sealed = bytes([codec]) + AESGCM(_PACK_KEY).encrypt(bytes(12), body, associated)
    plain = _CIPHER.open(0, sealed, plain_size_bytes)
    assert len(plain) == plain_size_bytes
    assert len(sealed) <= plain_size_bytes + FRAME_OVERHEAD_SIZE_BYTES


def _frame_seeds() -> list[bytes]:
    seeds = []
    for plain in (b"golden " * 100, bytes(range(256)), bytes(1 << 16)):
        frame = compress(plain)
        head = bytes([frame.codec]) + len(plain).to_bytes(4, "little")
        seeds.append(head + bytes(frame.body))
    assert {seed[0] for seed in seeds} == set(Codec)
    return seeds


def _read_frame_table(column: bytes) -> None:
    assert encode_frame_table(parse_frame_table(column, _FRAMES_END)) == column


def _read_manifest(data: bytes) -> None:
    manifests.open_manifest(data, KEYS.key_id, KEYS.manifest_key())
    assert data == _MANIFEST, "a changed manifest was opened"


def _read_manifest_body(data: bytes) -> None:
    """Claimed plain length (u32) and the compressed body, sealed as the writer would."""
    plain_size, compressed = int.from_bytes(data[:4], "little"), data[4:]
    tenant = MANIFEST.tenant.encode()
    header = tenant.join(
        (
            MANIFEST_HEADER.pack(
                MANIFEST_MAGIC, MANIFEST_VERSION, len(tenant), bytes(5), KEYS.key_id.bytes,
                MANIFEST.group.bytes, MANIFEST.session.bytes, b"s" * 16, MANIFEST.sequence,
                len(compressed) + GCM_TAG_SIZE_BYTES, plain_size,
            ),
            b"",
        )
    )  # fmt: skip
    key = KEYS.manifest_key()
    cipher = manifests._body_cipher(key, MANIFEST.session, b"s" * 16)
    content = header + cipher.encrypt(bytes(12), compressed, header)
    opened = manifests.open_manifest(content + manifests._mac(key, content), KEYS.key_id, key)
    assert opened.session == MANIFEST.session


def _manifest_body_seeds() -> list[bytes]:
    plain = manifests._encoder.encode(MANIFEST)
    compressed = zstandard.ZstdCompressor(level=2).compress(plain)
    # Stored, so that a mutation of the input is one of the body.
    stored = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(min_match=7, strategy=1)
    ).compress(plain)
    return [len(plain).to_bytes(4, "little") + body for body in (compressed, stored)]


def _read_node(data: bytes) -> None:
    node = decode_node(data)
    assert encode_node(node.level, node.entries()) == data
    assert node_size_bytes(data + b"more") == len(data)


def _read_wrapped(data: bytes) -> None:
    assert unwrap(data, _KEYS_NAME, KEK) == KEYS
    assert data == _WRAPPED, "a changed wrapped key was opened"


def _read_sheet(data: bytes) -> None:
    sheet = read_sheet(text_of(data))
    assert sheet.kek.secret == KEK.secret, "a mistyped key was believed"


def _read_kek(data: bytes) -> None:
    key = KeyEncryptionKey.parse(text_of(data))
    assert key.secret == bytes.fromhex(text_of(data).strip())


def _read_object_key(data: bytes) -> None:
    key = text_of(data)
    for parse, write in _OBJECT_KEYS:
        try:
            found = parse(key)
        except BadInputError:
            continue
        assert write(found) == key, "two keys for one object"


#: Each writer takes what its parser gives.
_OBJECT_KEYS: tuple[tuple[Callable[[str], Any], Callable[[Any], str]], ...] = (
    (layout.parse_pack_object, layout.pack_object),
    (layout.parse_manifest_object, layout.manifest_object),
    (layout.parse_domain_key_object, layout.domain_key_object),
    (layout.parse_checkpoint_object, layout.checkpoint_object),
)


def _object_key_seeds() -> list[bytes]:
    name = layout.ManifestName("default", uuid.UUID(int=4), 2, uuid.UUID(int=5), "a1")
    return [
        layout.pack_object(GENERATION).encode(),
        layout.manifest_object(name).encode(),
        layout.domain_key_object(layout.DomainKeyName(KEYS.domain, KEYS.key_id)).encode(),
        layout.checkpoint_object(layout.CheckpointName(1, 2)).encode(),
    ]


def _read_fingerprints(data: bytes) -> None:
    """The file decides nothing by its content: whole and ours, or as good as none."""
    path = _FOLDER / "file.fp"
    path.write_bytes(data)
    found = FingerprintFile.open_for(path, _SESSION, _IDENTITY)
    if found is None:
        return
    try:
        assert all(len(found.record(region)) == len(found.record(0)) for region in found.regions())
    finally:
        found.close()


def _fingerprint_seeds() -> list[bytes]:
    path = _FOLDER / "seed.fp"
    writer = FingerprintWriter(path, _SESSION, 1 << 30, _IDENTITY)
    writer.add(3, b"\1" * 2048)
    writer.finish()
    return [path.read_bytes()]


def _read_two(data: bytes) -> None:
    """A wrapped key under another key-encryption key, whose fingerprint it may claim."""
    wrapped, secret = parts_of(data, 2)
    unwrap(wrapped, _KEYS_NAME, KeyEncryptionKey(secret))
    assert secret == KEK.secret, "another key opened it"


_STORED = (DamagedDataError,)

FORMATS = (
    Target("pack", _read_pack, lambda: [_PACK], _STORED, cost=2),
    Target("pack-trailer", _read_trailer, _trailer_seeds, _STORED),
    Target("frame", _read_frame, _frame_seeds, _STORED),
    Target(
        "frame-table",
        _read_frame_table,
        lambda: [seed[8:44] for seed in _trailer_seeds()],
        _STORED,
    ),
    Target("manifest", _read_manifest, lambda: [_MANIFEST], _STORED),
    Target("manifest-body", _read_manifest_body, _manifest_body_seeds, _STORED),
    Target("map-node", _read_node, lambda: [LEAF, UPPER], _STORED, 20_000),
    Target("wrapped-key", _read_wrapped, lambda: [_WRAPPED], _STORED),
    Target(
        "wrapped-key-foreign",
        _read_two,
        lambda: [_WRAPPED + SEPARATOR + KEK.secret],
        (DamagedDataError, WrongKeyError, ConfigurationError),
    ),
    Target(
        "recovery-sheet", _read_sheet, lambda: [export_sheet(_SHEET).encode()], (BadInputError,)
    ),
    Target("key-file", _read_kek, lambda: [KEK.text().encode()], (ConfigurationError,)),
    Target("object-key", _read_object_key, _object_key_seeds, (BadInputError,), 256),
    Target("fingerprints", _read_fingerprints, _fingerprint_seeds, ()),
)
