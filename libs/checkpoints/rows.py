"""The rows of a checkpoint: what no pack and no manifest says, named by ids that outlive a catalog.

Numbers that are internal to one catalog (`*_no`) never appear. Rows come in the order of `Row`, so
whoever applies them finds what a row refers to.

A kind of row is a class of `Row`. To add one: the class here with its entry in `_KEY_FIELDS`, how
it is read in `libs.catalogdb.recovery.checkpoint_rows`, and a trigger in the schema that notes what
changed.
"""

from datetime import datetime
from typing import Annotated, Literal, get_args
from uuid import UUID

from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=0)]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Text = Annotated[str, Meta(max_length=4096)]


class DomainRow(Struct, frozen=True, kw_only=True, tag="domain"):
    """A domain and the data key that new packs use; the wrapped key lies in the bucket."""

    domain: UUID
    key_id: UUID


class TenantRow(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="tenant"):
    """A tenant and the domain of its data."""

    name: Text
    domain: UUID
    #: What it may store; None: no limit. Since version 6.
    quota_bytes: Count | None = None


class GrantRow(Struct, frozen=True, kw_only=True, tag="grant"):
    """A tenant may use another tenant's domain. Since version 2."""

    domain: UUID
    tenant: Text


class NodeRow(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="node"):
    """A node, as it last announced itself."""

    name: Text
    rpc_url: Text
    span_address: Text
    boot: UUID
    #: Which of its credentials counts; None: none, as in checkpoints that do not say it.
    credential: UUID | None = None
    #: When it was forgotten: no credential of before counts again.
    forgotten_at: datetime | None = None


class Retention(Struct, frozen=True, kw_only=True):
    """What retention keeps of a group."""

    keep_last: Count
    keep_for_seconds: Count


class Paused(Struct, frozen=True, kw_only=True):
    """Who paused a group, why and when."""

    by: Text
    reason: Text
    at: datetime


class GroupRow(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="group"):
    """A group and its head: what was acknowledged up to it is told by `SnapshotRow` alone."""

    group: UUID
    tenant: Text
    name: Text
    head_sequence: Count
    head_session: UUID | None
    #: MAC that the group's next manifest names; None before the first snapshot.
    head_mac: bytes | None
    retention: Retention | None
    #: What each domain tag of its block maps means, as manifests have it. Version 1 has none: tag 0
    #: is the tenant's own domain.
    domains: Annotated[tuple[UUID, ...], Meta(max_length=256)] = ()
    #: Stores that should have each snapshot whole; checkpoints that do not say it mean 1.
    copies: Annotated[int, Meta(ge=1)] = 1
    #: Since version 6; None: it takes snapshots.
    paused: Paused | None = None


class Removed(Struct, frozen=True, kw_only=True):
    """Who removed a volume, and when."""

    by: Text
    at: datetime


class VolumeRow(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="volume3"):
    """A volume of a group; its sources follow in rows of their own. Since version 3."""

    volume: UUID
    group: UUID
    name: Text
    #: Sequence of the group's head when it moved; -1: it never did. Since version 6.
    moved_after: Annotated[int, Meta(ge=-1)] = -1
    #: Since version 6; None: it is protected.
    removed: Removed | None = None


class VolumeRowV2(Struct, frozen=True, kw_only=True, tag="volume"):
    """A volume with its only source, as versions 1 and 2 have it; read and never written."""

    volume: UUID
    group: UUID
    name: Text
    node: Text
    path: Text


class SourceRow(Struct, frozen=True, kw_only=True, tag="source"):
    """Where a volume's bytes are: a node and a path on it. Since version 3."""

    volume: UUID
    node: Text
    path: Text
    driver: Text
    epoch: Count
    freeze: Text | None
    lead: bool


class VolumePart(Struct, frozen=True, kw_only=True):
    """One volume of a snapshot."""

    volume: UUID
    root: Digest | None
    root_level: Count
    size_bytes: Count
    read_bytes: Count
    changed_bytes: Count
    sent_bytes: Count
    stored_bytes: Count


class SnapshotRow(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="snapshot"):
    """An acknowledged snapshot, live, or expired and not yet folded."""

    session: UUID
    group: UUID
    sequence: Count
    live: bool
    base: UUID | None
    manifest_key: Text
    mac: bytes
    consistency: Literal["frozen", "quiet", "unvouched", "fuzzy"]
    sealed_at: datetime
    expired_at: datetime | None
    recovered: bool
    #: Empty if it is expired.
    volumes: tuple[VolumePart, ...]
    #: What people want to remember about it. Since version 6.
    note: Text | None = None


class PastRow(Struct, frozen=True, kw_only=True, tag="past"):
    """What is left of an expired snapshot that was folded. Since version 4."""

    session: UUID
    group: UUID
    sequence: Count
    #: A link of the chain of the group's manifests.
    mac: bytes
    sealed_at: datetime
    expired_at: datetime | None


class HoldRow(Struct, frozen=True, kw_only=True, tag="hold"):
    """A hold on a snapshot."""

    session: UUID
    owner: Text
    reason: Text
    placed_at: datetime


class RejectedRow(Struct, frozen=True, kw_only=True, tag="rejected"):
    """A session that was rejected and is not yet folded: it may have left a manifest.

    A session is folded only when its group's head has moved on. From then on it needs no row: its
    sequence is another snapshot's for ever.
    """

    session: UUID
    group: UUID
    head_sequence: Count
    code: Text


class CondemnedRow(Struct, frozen=True, kw_only=True, tag="condemned"):
    """A pack that is condemned and not known to be deleted: its DELETE may come at any time."""

    generation: UUID


Row = (
    DomainRow
    | TenantRow
    | GrantRow
    | NodeRow
    | GroupRow
    | VolumeRow
    | VolumeRowV2
    | SourceRow
    | SnapshotRow
    | PastRow
    | HoldRow
    | RejectedRow
    | CondemnedRow
)


class GoneRow(Struct, frozen=True, kw_only=True, tag="gone"):
    """In a delta: a row that the checkpoints before it had is no more. Since version 4."""

    #: Tag of the row's class.
    kind: Text
    #: As `key_of` gives it. An owner or tenant is at most 4096 characters, a UUID 36.
    key: Annotated[str, Meta(max_length=4200)]


#: A kind and a key: what names a row within one catalog.
RowKey = tuple[str, str]

_KEY_FIELDS: dict[type[Row], tuple[str, ...]] = {
    DomainRow: ("domain",),
    TenantRow: ("name",),
    GrantRow: ("domain", "tenant"),
    NodeRow: ("name",),
    GroupRow: ("group",),
    VolumeRow: ("volume",),
    VolumeRowV2: ("volume",),
    SourceRow: ("volume", "node"),
    SnapshotRow: ("session",),
    PastRow: ("session",),
    HoldRow: ("session", "owner"),
    RejectedRow: ("session",),
    CondemnedRow: ("generation",),
}


def kind_of(row: Row | GoneRow) -> str:
    """The kind that a row is of, or that a removal is about."""
    return row.kind if isinstance(row, GoneRow) else str(row.__struct_config__.tag)


def key_of(row: Row | GoneRow) -> str:
    """What names a row within its kind, as the schema's triggers write it."""
    if isinstance(row, GoneRow):
        return row.key
    return "/".join(str(getattr(row, field)) for field in _KEY_FIELDS[type(row)])


#: All kinds, in the order in which rows of a checkpoint come.
KINDS: tuple[str, ...] = tuple(str(row.__struct_config__.tag) for row in get_args(Row))


def only_source(volume: UUID, node: str, path: str) -> SourceRow:
    """The source of a volume of which nothing but node and path is known."""
    return SourceRow(
        volume=volume, node=node, path=path, driver="scan", epoch=0, freeze=None, lead=True
    )
