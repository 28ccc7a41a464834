"""The audit log in the catalog. Services append to it, and neither change nor remove anything."""

from collections.abc import Sequence
from datetime import datetime

from libs.access.acts import GENESIS, Act, AuditRecord, chained, instant
from libs.catalogdb.log.log import Entry, append
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.rows import all_rows
from libs.events.access.acts import ActRecorded
from libs.rest.auth import ALL_TENANTS

#: Any number that only the chain uses: one record is appended after the other.
_LOCK = 0x61756474

_INSERT = """
    INSERT INTO audit (number, at, service, token, roles, address, tenant, method, route, target,
                       status, digest)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""
_SELECT = """
    SELECT number, at, service, token, roles, address, tenant, method, route, target, status, digest
    FROM audit"""


def append_acts(catalog: Catalog, acts: Sequence[Act]) -> None:
    """Append records, all or none. One transaction, however many they are.

    The chain is locked from the look at its head to the commit.
    """
    with catalog.transaction() as tx:
        tx.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        head = tx.execute(
            "SELECT number, digest FROM audit ORDER BY number DESC LIMIT 1"
        ).fetchone()
        before, digest = head or (0, GENESIS)
        rows = []
        for number, act in enumerate(acts, start=before + 1):
            record = chained(digest, number, act)
            digest = record.digest
            rows.append(_columns(record))
        with tx.cursor() as cursor:
            cursor.executemany(_INSERT, rows)


def read_audit(catalog: Catalog, after: int, limit: int) -> list[AuditRecord]:
    """Records above a number, in order, at most ``limit``."""
    with catalog.reading() as tx:
        return _after(tx, after, limit)


def last_record(catalog: Catalog) -> int:
    """Number of the newest record; 0: there is none."""
    with catalog.reading() as tx:
        row = tx.execute("SELECT coalesce(max(number), 0) FROM audit").fetchone()
    return int(row[0]) if row else 0


def publish_acts(catalog: Catalog, limit: int) -> int:
    """Append records that were not published yet to the event log; how many, at most ``limit``.

    The position and the events are one transaction.

    Raises:
        NotReconciledError: the catalog was not compared with the store; they wait.
    """
    with catalog.transaction() as tx:
        position = tx.execute("SELECT number FROM audit_position FOR UPDATE").fetchone()
        assert position is not None
        records = _after(tx, position[0], limit)
        if records:
            append(tx, "catalog", [_entry(record) for record in records])
            tx.execute("UPDATE audit_position SET number = %s", [records[-1].number])
    return len(records)


def _after(tx: Tx, number: int, limit: int) -> list[AuditRecord]:
    return all_rows(
        tx, _record, _SELECT + " WHERE number > %s ORDER BY number LIMIT %s", [number, limit]
    )


def _entry(record: AuditRecord) -> Entry:
    act = record.act
    event = ActRecorded(
        number=record.number,
        at=instant(act.at),
        service=act.service,
        token=act.token,
        roles=act.roles,
        address=act.address,
        tenant=act.tenant,
        method=act.method,
        route=act.route,
        target=act.target,
        status=act.status,
        digest=record.digest,
    )
    return Entry(event, ALL_TENANTS, act.token)


def _columns(record: AuditRecord) -> list[object]:
    act = record.act
    return [
        record.number,
        act.at,
        act.service,
        act.token,
        list(act.roles),
        act.address,
        act.tenant,
        act.method,
        act.route,
        act.target,
        act.status,
        record.digest,
    ]


def _record(  # noqa: PLR0913 -- the columns of a row
    *,
    number: int,
    at: datetime,
    service: str,
    token: str,
    roles: list[str],
    address: str,
    tenant: str,
    method: str,
    route: str,
    target: str,
    status: int,
    digest: bytes,
) -> AuditRecord:
    act = Act(
        at=at,
        service=service,
        token=token,
        roles=tuple(roles),
        address=address,
        tenant=tenant,
        method=method,
        route=route,
        target=target,
        status=status,
    )
    return AuditRecord(number, act, digest)
