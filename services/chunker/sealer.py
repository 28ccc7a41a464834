"""The last steps of a session: parts are finished, and whoever finished the last one seals.

Order: parts finished (catalog) → manifest PUT → seal (the commit). A crash before the commit leaves
    a manifest that no snapshot names, and an open session whose finished parts keep their pins: a
    successor that reads the topic again finds all parts finished and seals.
"""

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from libs.blockmap.tree import MapRoot
from libs.catalogdb.packs.index import count_each_by_pack
from libs.catalogdb.pool import Catalog
from libs.catalogdb.sessions.attempts import (
    CaptureBegun,
    Finished,
    FinishedPart,
    finish_parts,
)
from libs.catalogdb.sessions.consistency import weakest_consistency
from libs.catalogdb.sessions.sealing import Refused, Sealed, seal
from libs.catalogdb.sessions.session import (
    SessionView,
    read_session,
    reject_session,
)
from libs.errors import BackcastError, InvariantViolation
from libs.events.block_changes import CaptureCompleted
from libs.keys.vault import KeyVault
from libs.packs.layout import CHUNK_SIZE_BYTES, MANIFEST_SALT_SIZE_BYTES
from libs.packs.manifest import Manifest, VolumeEntry, manifest_mac, seal_manifest
from libs.store.layout import ManifestName, manifest_object
from libs.store.port import ObjectStore
from services.chunker.parts.work import PartWork

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part all of which was handed to the packer."""

    work: PartWork
    begun: CaptureBegun
    root: MapRoot
    completed: CaptureCompleted


class Sealer:
    """Records parts, writes manifests, commits snapshots. Thread-safe; seals twice at no harm."""

    def __init__(self, catalog: Catalog, store: ObjectStore, vault: KeyVault) -> None:
        self._catalog = catalog
        self._store = store
        self._vault = vault

    def count_departed(self, works: Sequence[PartWork]) -> None:
        """Have the catalog count what has left addresses of some parts of one session."""
        taken = [work.packs.ledger.take_departed(1) for work in works]
        if any(taken):
            counts = count_each_by_pack(self._catalog, works[0].packs.domains, taken)
            for work, packs in zip(works, counts, strict=True):
                work.packs.ledger.departed(packs)

    def finish_parts(self, parts: Sequence[StoredPart]) -> Finished:
        """Record parts of one session whose packs are all registered, in one transaction.

        Raises:
            BackcastError: the catalog does not answer, or has lost one of their chunks.
        """
        unplaced = [part.work.packs.ledger.unplaced() for part in parts]
        counts: Sequence[Mapping[int, int]] = [{} for _ in parts]
        if any(unplaced):
            counts = count_each_by_pack(self._catalog, parts[0].work.packs.domains, unplaced)
        return finish_parts(
            self._catalog,
            [
                FinishedPart(
                    part.work.packs.attempt,
                    part.begun,
                    part.root.node_id,
                    part.root.level,
                    replace(part.work.progress, read_bytes=part.completed.read_bytes),
                    part.completed.consistency,
                    part.work.packs.ledger.use(places),
                )
                for part, places in zip(parts, counts, strict=True)
            ],
        )

    def seal_or_reject(self, session: UUID) -> None:
        """Seal a session all of whose parts are finished; one that cannot be sealed is rejected."""
        try:
            outcome = self.seal(session)
            if isinstance(outcome, Refused):
                self._reject(session, "refused", f"{outcome.reason}; take the snapshot again")
        except Exception as err:
            known = isinstance(err, BackcastError)
            log.log(
                logging.WARNING if known else logging.CRITICAL,
                "not sealed",
                extra={"session": str(session), "detail": str(err)},
                exc_info=None if known else err,
            )
            with contextlib.suppress(BackcastError):  # then its deadline rejects it
                self._reject(session, *reason_of(err))

    def seal(self, session: UUID) -> Sealed | Refused:
        """Seal a session whose parts are all finished."""
        view = read_session(self._catalog, session)
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
        outcome = seal(self._catalog, session, key, manifest_mac(body), domains)
        if isinstance(outcome, Sealed):
            log.info("sealed", extra=_facts(view, outcome))
        return outcome

    def _reject(self, session: UUID, code: str, message: str) -> None:
        reject_session(self._catalog, "chunker", session, code, message)


def _facts(view: SessionView, sealed: Sealed) -> dict[str, object]:
    """What the log says of a snapshot that was sealed."""
    return {
        "tenant": view.tenant,
        "group": view.group,
        "sequence": sealed.sequence,
        "session": str(view.session),
        "volumes": ", ".join(part.volume_name for part in view.parts),
        "consistency": weakest_consistency(view),
        "changed_bytes": sum(part.changed_bytes for part in view.parts),
        "stored_bytes": sum(part.stored_bytes for part in view.parts),
        "seconds": round(view.seconds, 3),
    }


def reason_of(err: BaseException) -> tuple[str, str]:
    """Code and message of what ended a session."""
    if isinstance(err, BackcastError):
        return err.code, str(err)
    return InvariantViolation.code, f"{type(err).__name__} in a chunker"


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
                volume_no=part.volume_no,
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
