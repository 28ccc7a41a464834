"""What a manifest says about its snapshot, as rows that the catalog takes back."""

from collections.abc import Mapping
from uuid import UUID

from libs.catalogdb.recovery.adoption import Found
from libs.checkpoints.rows import (
    DomainRow,
    GroupRow,
    NodeRow,
    SnapshotRow,
    TenantRow,
    VolumePart,
    VolumeRow,
    only_source,
)
from libs.packs.manifest import Manifest, VolumeEntry
from services.catalog.recovery.manifests import Candidate

#: The agent says where it is, and which process it is, when it announces itself.
_UNKNOWN = UUID(int=0)


def found_snapshot(
    candidate: Candidate, domain: UUID, keys: Mapping[UUID, UUID], *, proved: bool
) -> Found:
    """The rows of a snapshot that only its manifest tells of.

    Args:
        candidate: its manifest.
        domain: whose key opened it.
        keys: domain → the newest of its keys in the store.
        proved: whether the log says that it was acknowledged.
    """
    manifest = candidate.manifest
    return Found(
        domains=(DomainRow(domain=domain, key_id=candidate.key_id), *_others(manifest, keys)),
        tenant=TenantRow(name=manifest.tenant, domain=domain),
        group=GroupRow(
            group=manifest.group,
            tenant=manifest.tenant,
            name=manifest.group_name,
            head_sequence=manifest.sequence,
            head_session=manifest.session,
            head_mac=candidate.mac,
            retention=None,
            domains=manifest.domains,
        ),
        nodes=tuple(
            NodeRow(name=name, rpc_url="", span_address="", boot=_UNKNOWN)
            for name in sorted({volume.node for volume in manifest.volumes})
        ),
        volumes=tuple(
            VolumeRow(
                volume=volume.volume,
                group=manifest.group,
                name=volume.name,
            )
            for volume in manifest.volumes
        ),
        sources=tuple(
            only_source(volume.volume, volume.node, volume.source) for volume in manifest.volumes
        ),
        snapshot=SnapshotRow(
            session=manifest.session,
            group=manifest.group,
            sequence=manifest.sequence,
            live=True,
            base=manifest.base_session,
            manifest_key=candidate.key,
            mac=candidate.mac,
            consistency=manifest.consistency,
            sealed_at=manifest.created_at,
            expired_at=None,
            recovered=not proved,
            volumes=tuple(map(_part, manifest.volumes)),
        ),
    )


def _others(manifest: Manifest, keys: Mapping[UUID, UUID]) -> list[DomainRow]:
    """Domains of others that the block maps may name, as far as the store has keys of them."""
    others = [domain for domain in manifest.domains[1:] if domain in keys]
    return [DomainRow(domain=domain, key_id=keys[domain]) for domain in others]


def _part(volume: VolumeEntry) -> VolumePart:
    return VolumePart(
        volume=volume.volume,
        root=volume.root,
        root_level=volume.root_level,
        size_bytes=volume.size_bytes,
        read_bytes=volume.read_bytes,
        changed_bytes=volume.changed_bytes,
        sent_bytes=0,  # what was sent and stored for it, no manifest says
        stored_bytes=0,
    )
