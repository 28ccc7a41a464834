"""The commit of a snapshot: one transaction that checks everything and acknowledges.

Before it, in this order: every pack is durable and registered, every part is finished, the manifest
is PUT. A crash before the commit leaves an open session that a successor seals or the deadline
rejects, and objects that nothing refers to. After the commit the snapshot exists, whatever crashes
next.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from libs.catalogdb.domains import list_of_domains
from libs.catalogdb.idempotence import idempotent
from libs.catalogdb.log.log import Entry, append
from libs.catalogdb.notifications.opening import Kind, resolve_notifications
from libs.catalogdb.packs.damage import damaged_since_opened
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.recovery.incarnation import require_reconciled
from libs.catalogdb.sessions.consistency import weakest_consistency
from libs.catalogdb.sessions.folding import past_sequence
from libs.catalogdb.sessions.session import (
    SessionView,
    close_attempts,
    notify_session,
    session_view,
)
from libs.errors import InvariantViolation
from libs.events.snapshots import SealedVolume, SnapshotSealed


@dataclass(frozen=True, slots=True)
class Sealed:
    """The snapshot is acknowledged."""

    session: UUID
    sequence: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The snapshot is not acknowledged; ``reason`` says which check failed."""

    session: UUID
    reason: str


class _Refusal(Exception):  # noqa: N818 -- leaves the transaction, never this module
    pass


@idempotent
def seal(
    catalog: Catalog, session: UUID, manifest_key: str, mac: bytes, domains: Sequence[UUID]
) -> Sealed | Refused:
    """Acknowledge the snapshot that a session has made.

    Checked here, under locks: the session is open; its parts are finished and each attempt is the
    current one; the group's head has not moved; the base is live; the manifest's domain tags mean
    what the group's list says; every pin the parts expect exists and its pack is live. The packs
    are locked FOR SHARE, in order, so that condemning or rewriting one waits and then sees what
    this transaction wrote (scenarios 24 and 26). Two of these rules back each other up wherever the
    model found that one alone can fail; keep both.

    Args:
        catalog: the catalog.
        session: the session to seal.
        manifest_key: object key of the manifest, already durable.
        mac: the manifest's chain MAC, which the next manifest continues.
        domains: the manifest's list of domains.

    Raises:
        NotReconciledError: the catalog may have gone back in time; trying again later may help.
    """
    try:
        with catalog.transaction() as tx:
            return _seal(tx, session, manifest_key, mac, domains)
    except _Refusal as refusal:
        return Refused(session, str(refusal))


def _seal(tx: Tx, session: UUID, manifest_key: str, mac: bytes, domains: Sequence[UUID]) -> Sealed:
    require_reconciled(tx)
    row = tx.execute(
        """SELECT state::text, group_no, base, head_sequence, cut_attempt = 0 OR cut_at IS NOT NULL
           FROM session WHERE session = %s FOR UPDATE""",
        [session],
    ).fetchone()
    if row is None:
        sequence = past_sequence(tx, session)
        if sequence is not None:  # the answer of a first call was lost, long ago
            return Sealed(session, sequence)
        raise _Refusal("there is no such session")
    state, group_no, base, head_sequence, is_cut = row
    if state == "s":
        return Sealed(session, _sequence_of(tx, session))
    if state != "o":
        raise _Refusal("the session was rejected")
    if not is_cut:
        raise _Refusal("the group's volumes were not cut at one barrier")
    _check_head(tx, group_no, base, head_sequence)
    _check_domains(tx, group_no, domains)
    _check_parts(tx, session)
    packs = _lock_packs(tx, session)
    _check_pins(tx, session, packs)
    _check_damage(tx, session, packs)
    sequence = head_sequence + 1
    _record(tx, session, group_no, sequence, manifest_key, mac)
    _count_uses(tx, session, sequence, packs)
    close_attempts(tx, session)
    tx.execute("DELETE FROM part_use WHERE session = %s", [session])
    tx.execute("UPDATE session SET state = 's', ended_at = now() WHERE session = %s", [session])
    notify_session(tx, session)
    tx.execute("SELECT count_ended(%s)", [session])
    view = session_view(tx, session)
    reason = f"snapshot {view.group}@{sequence} was sealed"
    resolved = resolve_notifications(tx, Kind.SESSION_REJECTED, [str(view.group_id)], reason)
    append(tx, "chunker", [_event(view), *resolved])
    return Sealed(session, sequence)


def _check_head(tx: Tx, group_no: int, base: UUID | None, head_sequence: int) -> None:
    head = tx.execute(
        "SELECT head_sequence FROM volume_group WHERE group_no = %s FOR UPDATE", [group_no]
    ).fetchone()
    if head is None or head[0] != head_sequence:
        raise _Refusal("the group's head has moved since the session opened")
    if (
        base is not None
        and not tx.execute(
            "SELECT 1 FROM snapshot WHERE session = %s AND state = 'l' FOR SHARE", [base]
        ).fetchone()
    ):
        raise _Refusal(f"the base snapshot {base} is no longer live")


def _check_domains(tx: Tx, group_no: int, said: Sequence[UUID]) -> None:
    """The list grows only when a session opens, so since then it is the manifest's."""
    listed = list_of_domains(tx, group_no)
    if listed != list(said):
        raise _Refusal(
            f"the manifest's list of domains is not the group's: expected "
            f"{', '.join(map(str, listed))}, got {', '.join(map(str, said))}"
        )


def _check_parts(tx: Tx, session: UUID) -> None:
    row = tx.execute(
        """SELECT count(*) FILTER (WHERE p.state <> 'f' OR a.attempt IS NULL)
           FROM part p LEFT JOIN attempt a ON a.attempt = p.attempt AND a.open
           WHERE p.session = %s""",
        [session],
    ).fetchone()
    if row is None or row[0] != 0:
        raise _Refusal(
            "a part of the session is not finished, or its attempt is not the current one"
        )


@dataclass(frozen=True, slots=True)
class _Pack:
    live: bool
    moved_to: int | None


def _lock_packs(tx: Tx, session: UUID) -> dict[int, _Pack]:
    """Lock every pack that an address entered or left, and those that rewrites moved it to.

    Whoever deletes or rewrites one of them is through, or waits until this transaction ends.
    """
    wanted = {
        row[0] for row in tx.execute("SELECT pack_no FROM part_use WHERE session = %s", [session])
    }
    packs: dict[int, _Pack] = {}
    while wanted:  # chains of moves end, because a pack moves only to a younger one
        rows = tx.execute(
            """SELECT pack_no, state = 'l', moved_to FROM pack
               WHERE pack_no = ANY(%s) ORDER BY pack_no FOR SHARE""",
            [list(wanted)],
        ).fetchall()
        packs |= {pack_no: _Pack(live, moved_to) for pack_no, live, moved_to in rows}
        wanted = {moved_to for _, _, moved_to in rows if moved_to is not None} - packs.keys()
    return packs


def _check_pins(tx: Tx, session: UUID, packs: Mapping[int, _Pack]) -> None:
    expected = tx.execute(
        """SELECT DISTINCT p.attempt, u.pack_no
           FROM part_use u JOIN part p USING (session, volume_no)
           WHERE u.session = %s AND u.entered > 0""",
        [session],
    ).fetchall()
    if not all(pack_no in packs and packs[pack_no].live for _, pack_no in expected):
        raise _Refusal("a pack that the snapshot needs is no longer live")
    pins = tx.execute(
        """SELECT count(*) FROM pin
           JOIN unnest(%s::uuid[], %s::int[]) AS e (owner, pack_no) USING (owner, pack_no)""",
        [[attempt for attempt, _ in expected], [pack_no for _, pack_no in expected]],
    ).fetchone()
    if pins is None or pins[0] != len(expected):
        raise _Refusal("a pin that the snapshot relies on is gone")


def _check_damage(tx: Tx, session: UUID, packs: Mapping[int, _Pack]) -> None:
    damaged = damaged_since_opened(tx, session, packs)
    if damaged is not None:
        raise _Refusal(
            f"pack {damaged}, which the snapshot or its base needs, was found damaged meanwhile"
        )


def _record(  # noqa: PLR0913 -- the columns of a row
    tx: Tx, session: UUID, group_no: int, sequence: int, manifest_key: str, mac: bytes
) -> None:
    tx.execute(
        """INSERT INTO snapshot (session, group_no, sequence, base, manifest_key, mac, consistency)
           SELECT session, group_no, %s, base, %s, %s,
                  (SELECT CASE WHEN bool_or(consistency = 'fuzzy') THEN 'fuzzy'
                               WHEN bool_or(consistency = 'unvouched') THEN 'unvouched'
                               WHEN bool_or(consistency = 'quiet') THEN 'quiet' ELSE 'frozen' END
                   FROM part WHERE part.session = session.session)
           FROM session WHERE session = %s""",
        [sequence, manifest_key, mac, session],
    )
    tx.execute(
        """INSERT INTO snapshot_volume (session, volume_no, root, root_level, size_bytes,
                                        read_bytes, changed_bytes, sent_bytes, stored_bytes,
                                        tracking, lost_reason)
           SELECT session, volume_no, root, root_level, size_bytes,
                  read_bytes, changed_bytes, sent_bytes, stored_bytes, tracking, lost_reason
           FROM part WHERE session = %s""",
        [session],
    )
    tx.execute(
        """UPDATE volume_group SET head_sequence = %s, head_session = %s, head_mac = %s
           WHERE group_no = %s""",
        [sequence, session, mac, group_no],
    )


def _count_uses(tx: Tx, session: UUID, sequence: int, packs: Mapping[int, _Pack]) -> None:
    """Apply the parts' differences to pack_use: O(packs touched)."""
    # A part without a base counts everything anew: rows of the volume's earlier snapshots close.
    tx.execute(
        """UPDATE pack_use u SET last_sequence = %(sequence)s - 1 FROM part p
           WHERE p.session = %(session)s AND u.volume_no = p.volume_no AND u.last_sequence IS NULL
             AND NOT EXISTS (SELECT FROM session s JOIN snapshot_volume b ON b.session = s.base
                             WHERE s.session = p.session AND b.volume_no = p.volume_no)""",
        {"session": session, "sequence": sequence},
    )
    _close_absent(tx, session, sequence)
    tx.execute(
        """UPDATE volume v SET counted_damage = s.damage_seen
           FROM session s JOIN part p USING (session)
           WHERE s.session = %s AND v.volume_no = p.volume_no
             AND NOT EXISTS (SELECT FROM snapshot_volume b
                             WHERE b.session = s.base AND b.volume_no = p.volume_no)""",
        [session],
    )
    changes = _changes(tx, session, packs)
    columns = ([c[0] for c in changes], [c[1] for c in changes], [c[2] for c in changes])
    updated = tx.execute(
        """UPDATE pack_use u SET addresses = u.addresses + d.change,
                  last_sequence = CASE WHEN u.addresses + d.change = 0 THEN %s - 1 END
           FROM unnest(%s::int[], %s::int[], %s::bigint[]) AS d (volume_no, pack_no, change)
           WHERE u.volume_no = d.volume_no AND u.pack_no = d.pack_no AND u.last_sequence IS NULL
           RETURNING u.volume_no, u.pack_no""",
        [sequence, *columns],
    ).fetchall()
    known = set(updated)
    fresh = [change for change in changes if (change[0], change[1]) not in known]
    for volume_no, pack_no, change in fresh:
        if change < 0:
            raise InvariantViolation(
                f"volume {volume_no}: {-change} addresses leave pack {pack_no}, "
                f"which it does not use"
            )
    with (
        tx.cursor() as cursor,
        cursor.copy(
            "COPY pack_use (volume_no, pack_no, addresses, first_sequence) FROM STDIN"
        ) as copy,
    ):
        for volume_no, pack_no, change in fresh:
            copy.write_row((volume_no, pack_no, change, sequence))


def _close_absent(tx: Tx, session: UUID, sequence: int) -> None:
    """End the open rows of those of the group's volumes that the session has no part of.

    They were removed before it opened: the head has them no more, and an open row counts what the
    head has. Rows are locked first, in order, as expiry does: a rewriter that moves some of them is
    through, or waits.
    """
    locked = tx.execute(
        """SELECT 1 FROM session s JOIN volume v USING (group_no)
           JOIN pack_use u ON u.volume_no = v.volume_no AND u.last_sequence IS NULL
           WHERE s.session = %(session)s
             AND v.volume_no NOT IN (SELECT volume_no FROM part WHERE session = %(session)s)
           ORDER BY u.pack_no FOR UPDATE OF u""",
        {"session": session},
    )
    if locked.rowcount:
        tx.execute(
            """UPDATE pack_use u SET last_sequence = %(last)s
               FROM session s JOIN volume v USING (group_no)
               WHERE s.session = %(session)s
                 AND u.volume_no = v.volume_no AND u.last_sequence IS NULL
                 AND v.volume_no NOT IN (SELECT volume_no FROM part WHERE session = %(session)s)""",
            {"session": session, "last": sequence - 1},
        )


def _changes(tx: Tx, session: UUID, packs: Mapping[int, _Pack]) -> list[tuple[int, int, int]]:
    """(volume, pack, by how much its addresses change), where the pack's items are now.

    A part was counted when it was captured; a pack that it left may have been rewritten since, and
    its count moved with its items (scenario 24).
    """
    changes: Counter[tuple[int, int]] = Counter()
    for volume_no, counted_in, change in tx.execute(
        "SELECT volume_no, pack_no, entered - departed FROM part_use WHERE session = %s", [session]
    ):
        pack_no = counted_in
        while (moved_to := packs[pack_no].moved_to) is not None:
            pack_no = moved_to
        changes[volume_no, pack_no] += change
    return [(*where, change) for where, change in changes.items() if change]


def _sequence_of(tx: Tx, session: UUID) -> int:
    row = tx.execute("SELECT sequence FROM snapshot WHERE session = %s", [session]).fetchone()
    assert row is not None
    return int(row[0])


def _event(view: SessionView) -> Entry:
    assert view.sequence is not None
    assert view.manifest_key is not None
    event = SnapshotSealed(
        session=view.session,
        group=view.group_id,
        sequence=view.sequence,
        base=view.base,
        manifest_key=view.manifest_key,
        consistency=weakest_consistency(view),
        seconds=view.seconds,
        volumes=tuple(
            SealedVolume(
                volume=part.volume,
                name=part.volume_name,
                root=part.root,
                root_level=part.root_level,
                size_bytes=part.size_bytes,
                read_bytes=part.read_bytes,
                changed_bytes=part.changed_bytes,
                sent_bytes=part.sent_bytes,
                stored_bytes=part.stored_bytes,
            )
            for part in view.parts
        ),
    )
    return Entry(event, view.tenant, str(view.group_id), view.session)
