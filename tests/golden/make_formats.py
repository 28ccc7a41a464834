"""Golden bytes of every stored format: `python -m tests.golden.make_formats` writes missing files.

A file that exists is never written again: it stands for objects that lie in buckets. A new format
version gets new files.
"""

import dataclasses
import datetime as dt
import uuid
from pathlib import Path

import msgspec

from libs.blockmap.node import NodeHasher, encode_node
from libs.checkpoints.checkpoint import (
    Head,
    Link,
    object_digest,
    parts_of,
    seal_head,
    seal_part,
)
from libs.checkpoints.rows import (
    CondemnedRow,
    DomainRow,
    GoneRow,
    GrantRow,
    GroupRow,
    HoldRow,
    NodeRow,
    PastRow,
    Paused,
    RejectedRow,
    Removed,
    Retention,
    Row,
    SnapshotRow,
    SourceRow,
    TenantRow,
    VolumePart,
    VolumeRow,
    VolumeRowV2,
)
from libs.keys.kek import KeyEncryptionKey
from libs.keys.keyring import DomainKeys, wrap
from libs.packs.chunk import ChunkHasher
from libs.packs.frame import compress
from libs.packs.layout import PACK_SIZE_BYTES_MAX
from libs.packs.manifest import Manifest, VolumeEntry, seal_manifest
from libs.packs.pack import FrameItem, PackBuilder
from libs.packs.trailer import ItemKind
from libs.store.layout import CheckpointName

FOLDER = Path(__file__).parent
COMMAND = "python -m tests.golden.make_formats"

KEK = KeyEncryptionKey(bytes(range(32)))
KEYS = DomainKeys(uuid.UUID(int=1), uuid.UUID(int=2), b"i" * 32, b"d" * 32)
GENERATION = uuid.UUID(int=3)
HASHER = ChunkHasher(KEYS.id_key)
NODE_HASHER = NodeHasher(KEYS.id_key)

#: One chunk that compresses, one that does not.
CHUNKS = (b"golden " * 100, bytes(range(256)))
LEAF_ENTRIES = {
    0: b"\0" + HASHER.chunk_id(CHUNKS[0]),
    1: b"\0" + HASHER.chunk_id(CHUNKS[1]),
    511: b"\1" + b"g" * 32,
}
LEAF = encode_node(0, LEAF_ENTRIES)
UPPER = encode_node(1, {7: NODE_HASHER.node_id(LEAF)})
MANIFEST = Manifest(
    tenant="default",
    domains=(KEYS.domain, uuid.UUID(int=9)),
    group=uuid.UUID(int=4),
    group_name="vm",
    sequence=2,
    session=uuid.UUID(int=5),
    created_at=dt.datetime(2026, 11, 22, 10, 0, tzinfo=dt.UTC),
    base_session=uuid.UUID(int=6),
    consistency="unvouched",
    volumes=(
        VolumeEntry(
            volume=uuid.UUID(int=7),
            name="vm",
            volume_no=1,
            root=NODE_HASHER.node_id(UPPER),
            root_level=1,
            size_bytes=4096 << 16,
            chunk_size_bytes=65536,
            changed_bytes=3 << 16,
            read_bytes=4096 << 16,
            source="/images/vm.raw",
            node="node-1",
        ),
    ),
    previous_mac=b"p" * 32,
)
#: What the golden file of version 1 says.
MANIFEST_V1 = dataclasses.replace(MANIFEST, consistency="frozen")


CHECKPOINT = CheckpointName(2, 30)
CHECKPOINT_ROWS: tuple[Row, ...] = (
    DomainRow(domain=KEYS.domain, key_id=KEYS.key_id),
    DomainRow(domain=uuid.UUID(int=9), key_id=uuid.UUID(int=12)),
    TenantRow(name="default", domain=KEYS.domain, quota_bytes=1 << 40),
    TenantRow(name="images", domain=uuid.UUID(int=9)),
    GrantRow(domain=uuid.UUID(int=9), tenant="default"),
    NodeRow(
        name="node-1", rpc_url="http://node-1:1", span_address="node-1:2", boot=uuid.UUID(int=8)
    ),
    GroupRow(
        group=MANIFEST.group,
        tenant="default",
        name="vm",
        head_sequence=2,
        head_session=MANIFEST.session,
        head_mac=b"m" * 32,
        retention=Retention(keep_last=7, keep_for_seconds=86_400),
        domains=MANIFEST.domains,
        paused=Paused(by="ops", reason="the array moves", at=MANIFEST.created_at),
    ),
    VolumeRow(
        volume=uuid.UUID(int=7),
        group=MANIFEST.group,
        name="vm",
        moved_after=1,
        removed=Removed(by="ops", at=MANIFEST.created_at),
    ),
    SourceRow(
        volume=uuid.UUID(int=7),
        node="node-1",
        path="/images/vm.raw",
        driver="scan",
        epoch=1,
        freeze="/mnt/vm",
        lead=True,
    ),
    SnapshotRow(
        session=MANIFEST.session,
        group=MANIFEST.group,
        sequence=2,
        live=True,
        base=None,
        manifest_key="manifests/m",
        mac=b"m" * 32,
        consistency="unvouched",
        sealed_at=MANIFEST.created_at,
        expired_at=None,
        recovered=False,
        volumes=(
            VolumePart(
                volume=uuid.UUID(int=7),
                root=b"r" * 32,
                root_level=1,
                size_bytes=4096 << 16,
                read_bytes=4096 << 16,
                changed_bytes=3 << 16,
                sent_bytes=2 << 16,
                stored_bytes=1 << 16,
            ),
        ),
        note="before the upgrade",
    ),
    HoldRow(
        session=MANIFEST.session, owner="legal", reason="case 17", placed_at=MANIFEST.created_at
    ),
    RejectedRow(session=uuid.UUID(int=10), group=MANIFEST.group, head_sequence=2, code="deadline"),
    CondemnedRow(generation=uuid.UUID(int=11)),
)
CHECKPOINT_PART = b"".join(parts_of(CHECKPOINT_ROWS))
#: What the golden files of version 5 say; today's code reads them and never writes them.
CHECKPOINT_ROWS_V5: tuple[Row, ...] = tuple(
    msgspec.structs.replace(row, paused=None)
    if isinstance(row, GroupRow)
    else msgspec.structs.replace(row, quota_bytes=None)
    if isinstance(row, TenantRow)
    else msgspec.structs.replace(row, note=None)
    if isinstance(row, SnapshotRow)
    else msgspec.structs.replace(row, moved_after=-1, removed=None)
    if isinstance(row, VolumeRow)
    else row
    for row in CHECKPOINT_ROWS
)
#: What the golden files of versions 3 and 4 say.
CHECKPOINT_ROWS_V4: tuple[Row, ...] = tuple(
    msgspec.structs.replace(row, consistency="frozen") if isinstance(row, SnapshotRow) else row
    for row in CHECKPOINT_ROWS_V5
)
#: What the golden files of version 2 say.
CHECKPOINT_ROWS_V2: tuple[Row, ...] = tuple(
    VolumeRowV2(
        volume=row.volume,
        group=row.group,
        name=row.name,
        node="node-1",
        path="/images/vm.raw",
    )
    if isinstance(row, VolumeRow)
    else row
    for row in CHECKPOINT_ROWS_V4
    if not isinstance(row, SourceRow)
)
#: What the golden files of version 1 say.
CHECKPOINT_ROWS_V1 = tuple(
    msgspec.structs.replace(row, domains=()) if isinstance(row, GroupRow) else row
    for row in CHECKPOINT_ROWS_V2
    if not isinstance(row, GrantRow)
    and not (isinstance(row, DomainRow) and row.domain != KEYS.domain)
    and not (isinstance(row, TenantRow) and row.domain != KEYS.domain)
)
#: A delta on top of it, with which its snapshot has expired and was folded.
DELTA = CheckpointName(2, 31)
DELTA_ROWS: tuple[Row | GoneRow, ...] = (
    GoneRow(kind="snapshot", key=str(MANIFEST.session)),
    PastRow(
        session=MANIFEST.session,
        group=MANIFEST.group,
        sequence=2,
        mac=b"m" * 32,
        sealed_at=MANIFEST.created_at,
        expired_at=MANIFEST.created_at,
    ),
    GoneRow(kind="hold", key=f"{MANIFEST.session}/legal"),
)
DELTA_PART = b"".join(parts_of(DELTA_ROWS))


def checkpoint_head(part: bytes) -> Head:
    """The head of the golden checkpoint, given its only part's object."""
    return Head(
        kind="state",
        made_at=MANIFEST.created_at,
        positions={"backcast.snapshots": 12},
        parts=(object_digest(part),),
    )


def delta_head(part: bytes, base: bytes) -> Head:
    """The head of the golden delta, given the objects of its only part and of its base's head."""
    return Head(
        kind="state",
        made_at=MANIFEST.created_at,
        positions={"backcast.snapshots": 13},
        parts=(object_digest(part),),
        chain=(Link(number=CHECKPOINT.number, digest=object_digest(base)),),
    )


def golden_pack() -> bytes:
    """A pack of one compressed frame, one raw frame, and a frame with a map node."""
    builder = PackBuilder(
        GENERATION,
        KEYS.domain,
        KEYS.key_id,
        KEYS.pack_key(GENERATION),
        bytearray(PACK_SIZE_BYTES_MAX),
    )
    contents: list[tuple[ItemKind, bytes, bytes]] = [
        (ItemKind.CHUNK, HASHER.chunk_id(chunk), chunk) for chunk in CHUNKS
    ]
    contents.append((ItemKind.NODE, NODE_HASHER.node_id(LEAF), LEAF))
    for kind, item_id, plain in contents:
        frame = compress(plain)
        slot = builder.reserve(frame, [FrameItem(kind, item_id, 0, len(plain))])
        assert slot is not None
        builder.fill(slot, frame)
    builder.close()
    return bytes(builder.finish())


def golden_files() -> dict[Path, bytes]:
    """Path of each golden file and the bytes that today's code gives."""
    manifest = seal_manifest(MANIFEST, KEYS.key_id, KEYS.manifest_key(), b"s" * 16)
    part = seal_part(dataclasses.replace(CHECKPOINT, part=0), CHECKPOINT_PART, KEK, b"p" * 16)
    delta = seal_part(dataclasses.replace(DELTA, part=0), DELTA_PART, KEK, b"p" * 16)
    head = seal_head(CHECKPOINT, checkpoint_head(part), KEK, b"h" * 16)
    return {
        FOLDER / "packs" / "pack-v1.bin": golden_pack(),
        FOLDER / "nodes" / "leaf-v1.bin": LEAF,
        FOLDER / "nodes" / "upper-v1.bin": UPPER,
        FOLDER / "manifests" / "manifest-v2.bin": manifest,
        FOLDER / "keys" / "wrapped-v1.bin": wrap(KEYS, KEK),
        FOLDER / "checkpoints" / "part-v6.bin": part,
        FOLDER / "checkpoints" / "head-v6.bin": head,
        FOLDER / "checkpoints" / "delta-part-v6.bin": delta,
        FOLDER / "checkpoints" / "delta-head-v6.bin": seal_head(
            DELTA, delta_head(delta, head), KEK, b"h" * 16
        ),
    }


if __name__ == "__main__":
    for path, data in golden_files().items():
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
            print(f"wrote {path}")
