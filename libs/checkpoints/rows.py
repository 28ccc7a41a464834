"""The rows of a checkpoint: what no pack and no manifest says, named by ids that outlive a catalog.

Numbers that are internal to one catalog (`*_no`) never appear. Rows come in the order of `Row`, so
whoever applies them finds what a row refers to.
"""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=0)]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Text = Annotated[str, Meta(max_length=4096)]


class DomainRow(Struct, frozen=True, kw_only=True, tag="domain"):
    """A domain and the data key that new packs use; the wrapped key lies in the bucket."""

    domain: UUID
    key_id: UUID


class TenantRow(Struct, frozen=True, kw_only=True, tag="tenant"):
    """A tenant and the domain of its data."""

    name: Text
    domain: UUID


class GrantRow(Struct, frozen=True, kw_only=True, tag="grant"):
    """A tenant may use another tenant's domain. Since version 2."""

    domain: UUID
    tenant: Text


class NodeRow(Struct, frozen=True, kw_only=True, tag="node"):
    """A node, as it last announced itself."""

    name: Text
    rpc_url: Text
    span_address: Text
    boot: UUID


class Retention(Struct, frozen=True, kw_only=True):
    """What retention keeps of a group."""

    keep_last: Count
    keep_for_seconds: Count


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


class VolumeRow(Struct, frozen=True, kw_only=True, tag="volume3"):
    """A volume of a group; its sources follow in rows of their own. Since version 3."""

    volume: UUID
    group: UUID
    name: Text


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


class SnapshotRow(Struct, frozen=True, kw_only=True, tag="snapshot"):
    """An acknowledged snapshot; of an expired one the stub of sequence and MAC is left."""

    session: UUID
    group: UUID
    sequence: Count
    live: bool
    base: UUID | None
    manifest_key: Text
    mac: bytes
    consistency: Literal["frozen", "quiet", "fuzzy"]
    sealed_at: datetime
    expired_at: datetime | None
    recovered: bool
    #: Empty if it is expired.
    volumes: tuple[VolumePart, ...]


class HoldRow(Struct, frozen=True, kw_only=True, tag="hold"):
    """A hold on a snapshot."""

    session: UUID
    owner: Text
    reason: Text
    placed_at: datetime


class RejectedRow(Struct, frozen=True, kw_only=True, tag="rejected"):
    """A session that was rejected on its group's present head: it may have left a manifest.

    Sessions on earlier heads need no row: their sequence is another snapshot's for ever.
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
    | HoldRow
    | RejectedRow
    | CondemnedRow
)


def only_source(volume: UUID, node: str, path: str) -> SourceRow:
    """The source of a volume of which nothing but node and path is known."""
    return SourceRow(
        volume=volume, node=node, path=path, driver="scan", epoch=0, freeze=None, lead=True
    )
