"""The last steps of a session: the part is finished, and whoever finished the last part seals.

Order: part finished (catalog) → manifest PUT → seal (the commit). A crash before the commit leaves
    a manifest that no snapshot names, and an open session whose finished parts keep their pins: a
    successor that reads the topic again finds all parts finished and seals.
"""

import os
from datetime import UTC, datetime
from uuid import UUID

from libs.catalogdb.pool import Catalog
from libs.catalogdb.sessions.sealing import Refused, Sealed, seal
from libs.catalogdb.sessions.session import SessionView, read_session, weakest_consistency
from libs.keys.vault import KeyVault
from libs.packs.layout import CHUNK_SIZE_BYTES, MANIFEST_SALT_SIZE_BYTES
from libs.packs.manifest import Manifest, VolumeEntry, manifest_mac, seal_manifest
from libs.runtime.retries import retried
from libs.store.layout import ManifestName, manifest_object
from libs.store.port import ObjectStore


class Sealer:
    """Writes manifests and commits snapshots. Thread-safe; sealing twice is harmless."""

    def __init__(self, catalog: Catalog, store: ObjectStore, vault: KeyVault) -> None:
        self._catalog = catalog
        self._store = store
        self._vault = vault

    def seal(self, session: UUID) -> Sealed | Refused:
        """Seal a session whose parts are all finished."""
        view = retried(lambda: read_session(self._catalog, session))
        if view.state == "rejected":
            return Refused(session, "the session was rejected")
        if view.sequence is not None:
            return Sealed(session, view.sequence)
        keys = self._vault.get(view.domain, view.key_id)
        salt = os.urandom(MANIFEST_SALT_SIZE_BYTES)
        body = seal_manifest(_manifest(view), view.key_id, keys.manifest_key(), salt)
        name = ManifestName(view.tenant, view.group_id, view.head_sequence + 1, session, salt.hex())
        key = manifest_object(name)
        self._store.put(key, body)
        domains = [one.domain for one in view.domains]
        return retried(lambda: seal(self._catalog, session, key, manifest_mac(body), domains))


def _manifest(view: SessionView) -> Manifest:
    return Manifest(
        tenant=view.tenant,
        domains=tuple(one.domain for one in view.domains),
        group=view.group_id,
        group_name=view.group,
        sequence=view.head_sequence + 1,
        session=view.session,
        created_at=datetime.now(UTC),
        base_session=view.base,
        consistency=weakest_consistency(view),
        volumes=tuple(
            VolumeEntry(
                volume=part.volume,
                name=part.volume_name,
                lineage=part.volume_no,
                root=part.root,
                root_level=part.root_level,
                size_bytes=part.size_bytes,
                chunk_size_bytes=CHUNK_SIZE_BYTES,
                changed_bytes=part.changed_bytes,
                read_bytes=part.read_bytes,
                source=part.path,
                node=part.node,
            )
            for part in view.parts
        ),
        previous_mac=view.previous_mac,
    )
