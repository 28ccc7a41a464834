"""Readers: restores and range reads that keep what they read from being deleted.

A reader pins the snapshot (its row) and each pack when it resolves it, live and locked; both are
needed, because a pack that is rewritten goes even while the snapshot stays (scenario 29). Every
reader has an owner-chosen id and a deadline; one that dies holds nothing back for longer.
"""

from collections.abc import Sequence
from uuid import UUID

from libs.catalogdb.log import Entry, append
from libs.catalogdb.packs import Resolved, locate, pin_packs
from libs.catalogdb.pool import Catalog
from libs.catalogdb.snapshots import SnapshotVolume
from libs.errors import ConflictError, DamagedDataError, NotFoundError
from libs.events.restores import RestoreCompleted, RestoreFailed, RestoreRequested


def open_reader(
    catalog: Catalog,
    reader: UUID,
    point: SnapshotVolume,
    deadline_seconds: float,
    *,
    announce: bool,
) -> None:
    """Pin a snapshot for a reader. Opening it again with the same id renews it.

    Args:
        catalog: the catalog.
        reader: chosen by the caller.
        point: what is read.
        deadline_seconds: without renewal for so long, the pins fall.
        announce: whether to log RestoreRequested: for whole restores, not for single ranges.

    Raises:
        NotFoundError: the snapshot is no longer live.
    """
    with catalog.transaction() as tx:
        live = tx.execute(
            "SELECT 1 FROM snapshot WHERE session = %s AND state = 'l' FOR SHARE", [point.session]
        )
        if live.fetchone() is None:
            raise NotFoundError(f"snapshot {point.session}: it has expired meanwhile")
        fresh = tx.execute(
            """INSERT INTO reader (reader, session, volume_no, deadline)
               VALUES (%s, %s, %s, now() + make_interval(secs => %s)) ON CONFLICT DO NOTHING""",
            [reader, point.session, point.volume_no, deadline_seconds],
        )
        if announce and fresh.rowcount:
            event = RestoreRequested(
                restore=reader,
                session=point.session,
                volume=point.volume,
                size_bytes=point.size_bytes,
            )
            append(tx, "restore", [Entry(event, point.tenant, str(reader), reader)])


def resolve(
    catalog: Catalog, reader: UUID, domain_no: int, ids: Sequence[bytes], deadline_seconds: float
) -> Resolved:
    """Find where items lie and pin their packs for the reader; renews its deadline.

    Raises:
        ConflictError: the reader is closed or its deadline has passed; open a new one.
        DamagedDataError: an item is not in the index, or its pack is no longer live.
    """
    with catalog.transaction() as tx:
        renewed = tx.execute(
            """UPDATE reader SET deadline = now() + make_interval(secs => %s)
               WHERE reader = %s AND state = 'o' RETURNING 1""",
            [deadline_seconds, reader],
        ).fetchone()
        if renewed is None:
            raise ConflictError(
                f"restore {reader}: it is closed or its deadline has passed; start it again"
            )
        resolved = locate(tx, domain_no, ids)
        lost = resolved.packs.keys() - pin_packs(tx, reader, resolved.packs)
        if lost:
            raise DamagedDataError(
                f"packs {sorted(lost)}: needed by a live snapshot, but no longer live"
            )
        return resolved


def close_reader(  # noqa: PLR0913 -- the outcome of a restore
    catalog: Catalog,
    reader: UUID,
    *,
    bytes_: int,
    fetched_bytes: int,
    failure: str | None,
    announce: bool,
) -> None:
    """Let go of everything a reader pinned and, for a whole restore, log how it ended. Idempotent.

    Raises:
        NotFoundError: there is no such reader.
    """
    with catalog.transaction() as tx:
        row = tx.execute(
            """SELECT r.session, r.state::text, v.volume_id, t.name FROM reader r JOIN volume v USING (volume_no)
               JOIN tenant t USING (tenant_no) WHERE reader = %s FOR UPDATE OF r""",
            [reader],
        ).fetchone()
        if row is None:
            raise NotFoundError(f"restore {reader}: there is none of this id")
        session, state, volume, tenant = row
        if state != "o":
            return
        tx.execute(
            """UPDATE reader SET state = %s, ended_at = now(), bytes = %s, fetched_bytes = %s WHERE reader = %s""",
            ["f" if failure else "c", bytes_, fetched_bytes, reader],
        )
        tx.execute("DELETE FROM pin WHERE owner = %s", [reader])
        if announce:
            event = (
                RestoreFailed(
                    restore=reader,
                    snapshot=session,
                    volume=volume,
                    code="client",
                    message=failure[:2000],
                )
                if failure
                else RestoreCompleted(
                    restore=reader,
                    snapshot=session,
                    volume=volume,
                    bytes=bytes_,
                    fetched_bytes=fetched_bytes,
                )
            )
            append(tx, "restore", [Entry(event, tenant, str(reader), reader)])


def drop_overdue_readers(catalog: Catalog) -> int:
    """Close readers whose deadline has passed; returns how many."""
    with catalog.transaction() as tx:
        overdue = [
            row[0]
            for row in tx.execute(
                """UPDATE reader SET state = 'f', ended_at = now()
                   WHERE state = 'o' AND deadline < now() RETURNING reader"""
            )
        ]
        tx.execute("DELETE FROM pin WHERE owner = ANY(%s)", [overdue])
    return len(overdue)
