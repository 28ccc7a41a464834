"""Retention: which snapshots of a group stay, and the time that their age is measured by.

A group keeps its newest good recovery points by count, which needs no clock, and older ones up to
an age that counts from their receipt (`sealed_at`). A snapshot never expires by age before an older
one does, so a clock that was wrong at one seal gives up nothing early.

Age is measured against a trusted time that follows the server's clock in small steps. When the
clock jumps, the trusted time stands still and retention gives up nothing, until the clock is back
or a person confirms it (scenario 19).
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, LiteralString
from uuid import UUID

from psycopg import sql

from libs.catalogdb.deletion.brake import PASSING_COUNT_MAX, Kind, judge, keep_only
from libs.catalogdb.log.log import Entry, append
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.rows import all_rows, one_row
from libs.catalogdb.volumes.locking import LockedGroup, lock_existing_group
from libs.errors import ForbiddenError, NotFoundError
from libs.events.snapshots import RetentionChanged

#: Steps of the clock up to here are ordinary: corrections, a paused machine, a slow transaction.
STEP_SECONDS_MAX = 600.0
#: A service that starts cannot tell a pause from a jump; pauses of maintenance are shorter.
PAUSE_SECONDS_MAX = 86_400.0
#: More than this share of a group's live points is too much to expire at once by retention.
_OVERDUE_SHARE_MAX = 0.5
#: Groups that a halt names.
_NAMED_MAX = 20


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """What is kept of a group: the newest ``keep_last``, and all that are not older."""

    #: 1 or more.
    keep_last: int
    #: 0 or more.
    keep_for_seconds: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a group."""

    #: Which of its snapshots stay; None: all.
    rule: RetentionPolicy | None
    #: How many stores should have each of them whole; 1 or more.
    copies: int

    def keeps_all_of(self, other: "Kept") -> bool:
        """Whether everything stays that would stay by the other one, at as many stores."""
        return self.copies >= other.copies and _keeps_all_of(self.rule, other.rule)

    def __str__(self) -> str:
        stores = f" at {self.copies} stores" if self.copies > 1 else ""
        if self.rule is None:
            return f"all{stores}"
        age = self.rule.keep_for_seconds
        return f"the newest {self.rule.keep_last} and all up to {age} s old{stores}"


@dataclass(frozen=True, slots=True)
class ClockState:
    """The time that retention goes by."""

    trusted_at: datetime
    #: The server's clock.
    server_at: datetime
    #: Whether the server's clock has jumped and nobody has confirmed it.
    halted: bool


@dataclass(frozen=True, slots=True)
class OverdueSnapshot:
    """A snapshot that retention does not keep."""

    group_no: int
    sequence: int
    tenant: str
    session: UUID


#: The live snapshots `s` that a rule does not keep, of tenant `t` and group `g`, in two parts. A
#: group that is paused gets no new ones, so none of its old ones goes by age.
_FROM_RULES: LiteralString = """
    SELECT s.group_no, s.sequence, t.name AS tenant, s.session
    FROM retention r JOIN snapshot s USING (group_no) JOIN volume_group g USING (group_no)
    JOIN tenant t USING (tenant_no) CROSS JOIN retention_clock c """
#: The same of one rule for every group, which nobody has set.
_FROM_ONE_RULE: LiteralString = """
    SELECT s.group_no, s.sequence, t.name AS tenant, s.session
    FROM (SELECT %(keep_last)s::int AS keep_last,
                 %(keep_for_seconds)s::bigint AS keep_for_seconds) r
    CROSS JOIN snapshot s JOIN volume_group g USING (group_no)
    JOIN tenant t USING (tenant_no) CROSS JOIN retention_clock c """
_IS_NOT_KEPT: LiteralString = """
    WHERE s.state = 'l' AND c.halted_since IS NULL AND g.paused_at IS NULL
      AND s.sealed_at < c.trusted_at - make_interval(secs => r.keep_for_seconds)
      AND NOT EXISTS (
          SELECT FROM snapshot older
          WHERE older.group_no = s.group_no AND older.state = 'l' AND older.sequence < s.sequence
            AND older.sealed_at >= c.trusted_at - make_interval(secs => r.keep_for_seconds))
      AND r.keep_last <= (
          SELECT count(*) FROM snapshot newer
          WHERE newer.group_no = s.group_no AND newer.state = 'l' AND newer.sequence > s.sequence
            AND NOT EXISTS (SELECT FROM verification v
                            WHERE v.session = newer.session AND v.damaged))"""

_NOT_KEPT: LiteralString = _FROM_RULES + _IS_NOT_KEPT
_NOT_KEPT_BY_ONE: LiteralString = _FROM_ONE_RULE + _IS_NOT_KEPT

#: Those of them that retention gives up: not the suspects that nobody has accepted.
IS_OVERDUE: LiteralString = (
    _NOT_KEPT
    + """ AND NOT EXISTS (SELECT FROM suspect x WHERE x.kind = 'points-overdue'
                          AND x.item = s.session::text AND NOT x.accepted)"""
)

#: Those that a rule does not keep of groups where they are many and a large share, and those that a
#: person let go already, which count as none and have no number of points.
_OVERDUE_AT_ONCE = sql.SQL(
    """WITH overdue (group_no, sequence, tenant, session) AS ({not_kept}),
            judged AS (
                SELECT o.*, EXISTS (SELECT FROM suspect x WHERE x.kind = 'points-overdue'
                                    AND x.item = o.session::text AND x.accepted) AS accepted
                FROM overdue o),
            large AS (SELECT group_no, count(*) AS points FROM judged WHERE NOT accepted
                      GROUP BY group_no
                      HAVING count(*) > %s AND count(*) > %s * (
                          SELECT count(*) FROM snapshot l
                          WHERE l.group_no = judged.group_no AND l.state = 'l'))
       SELECT j.session::text, j.tenant, g.name, CASE WHEN NOT accepted THEN l.points END
       FROM judged j LEFT JOIN large l USING (group_no) JOIN volume_group g USING (group_no)
       WHERE accepted OR l.points IS NOT NULL ORDER BY j.tenant, g.name, j.sequence"""
).format(not_kept=sql.SQL(_NOT_KEPT))


_CLOCK: LiteralString = """
    SELECT trusted_at, clock_timestamp() AS server_at, halted_since IS NOT NULL AS halted
    FROM retention_clock"""


def set_retention(  # noqa: PLR0913 -- a group, what it keeps, and how far the caller may go
    catalog: Catalog,
    tenant: str,
    name: str,
    rule: RetentionPolicy | Literal["unchanged"] | None,
    copies: int | None = None,
    *,
    may_shorten: bool,
    dry_run: bool = False,
) -> Kept:
    """Change what is kept of a group; what holds then.

    What holds before is read under the lock of the group, in the transaction of the change. So of
    two changes at once the second one is judged by what the first one has left.

    Args:
        catalog: the catalog.
        tenant: name of the tenant.
        name: of the group, or of a volume in it.
        rule: which snapshots stay; None: nothing expires by itself.
        copies: how many stores should have each snapshot whole; None: as many as before.
        may_shorten: whether the caller may have fewer snapshots or copies kept than before.
        dry_run: only say what would hold, whoever asks.

    Raises:
        NotFoundError: no such group.
        ForbiddenError: less would be kept, and the caller may not do that.
    """
    with catalog.transaction() as tx:
        # An expiry of this group has committed, or goes by what is written here.
        group = lock_existing_group(tx, tenant, name)
        before = read_kept(tx, group.group_no)
        after = Kept(
            rule=before.rule if rule == "unchanged" else rule,
            copies=before.copies if copies is None else copies,
        )
        if dry_run:
            return after
        if not may_shorten and not after.keeps_all_of(before):
            raise ForbiddenError(
                f"group {group.group}: to keep {after} instead of {before} needs role delete, "
                f"because that may give recovery points up; whoever backs up may only keep more"
            )
        if copies is not None:
            tx.execute(
                "UPDATE volume_group SET copies = %s WHERE group_no = %s", [copies, group.group_no]
            )
        if rule != "unchanged":
            _write_rule(tx, tenant, group, rule)
        return after


def read_kept(tx: Tx, group_no: int) -> Kept:
    """What is kept of a group that the caller has locked, or only compares with."""
    rule = one_row(
        tx,
        RetentionPolicy,
        "SELECT keep_last, keep_for_seconds FROM retention WHERE group_no = %s",
        [group_no],
    )
    row = tx.execute("SELECT copies FROM volume_group WHERE group_no = %s", [group_no]).fetchone()
    assert row is not None
    return Kept(rule, int(row[0]))


def points_given_up(
    catalog: Catalog, tenant: str, group: str, policy: RetentionPolicy | None
) -> list[int]:
    """Sequences of the live snapshots of a group that a rule would not keep now; ascending.

    Holds and leases may keep some of them, and so may the brake.
    """
    if policy is None:
        return []
    with catalog.transaction() as tx:
        rows = tx.execute(
            _NOT_KEPT_BY_ONE
            + " AND t.name = %(tenant)s AND g.name = %(group)s ORDER BY s.sequence",
            {
                "tenant": tenant,
                "group": group,
                "keep_last": policy.keep_last,
                "keep_for_seconds": policy.keep_for_seconds,
            },
        ).fetchall()
    return [sequence for _, sequence, _, _ in rows]


def read_retention(catalog: Catalog, tenant: str, group: str) -> Kept:
    """What is kept of a group.

    Raises:
        NotFoundError: no such group.
    """
    with catalog.transaction() as tx:
        row = tx.execute(
            """SELECT group_no FROM volume_group g JOIN tenant t USING (tenant_no)
               WHERE t.name = %s AND g.name = %s""",
            [tenant, group],
        ).fetchone()
        if row is None:
            raise NotFoundError(f"group {group}: tenant {tenant} has none of this name")
        return read_kept(tx, row[0])


def overdue_snapshots(
    catalog: Catalog, limit: int, after: OverdueSnapshot | None = None
) -> list[OverdueSnapshot]:
    """A page of the snapshots that retention does not keep now, oldest first within a group."""
    with catalog.transaction() as tx:
        return all_rows(
            tx,
            OverdueSnapshot,
            IS_OVERDUE
            + """ AND (s.group_no, s.sequence) > (%s, %s)
                  ORDER BY s.group_no, s.sequence LIMIT %s""",
            [after.group_no if after else 0, after.sequence if after else 0, limit],
        )


def read_clock(catalog: Catalog) -> ClockState:
    """The time that retention goes by, as it was last observed."""
    with catalog.transaction() as tx:
        state = one_row(tx, ClockState, _CLOCK)
    assert state is not None
    return state


def observe_clock(catalog: Catalog, seen: datetime | None, elapsed_seconds: float) -> ClockState:
    """Let the trusted time follow the server's clock, or stop it because that has jumped.

    Args:
        catalog: the catalog.
        seen: the trusted time that the caller saw last; None if it has just started.
        elapsed_seconds: since the caller first saw it, by its monotonic clock.
    """
    with catalog.transaction() as tx:
        before = one_row(tx, ClockState, _CLOCK + " FOR UPDATE")
        assert before is not None
        step_seconds = (before.server_at - before.trusted_at).total_seconds()
        if seen is None:
            expected_seconds = 0.0 if before.halted else PAUSE_SECONDS_MAX
        else:  # somebody else has moved it since: then nothing is known of how long ago
            expected_seconds = elapsed_seconds if seen == before.trusted_at else 0.0
        halted = not -STEP_SECONDS_MAX <= step_seconds <= expected_seconds + STEP_SECONDS_MAX
        if not halted:
            tx.execute(
                """UPDATE retention_clock
                   SET trusted_at = greatest(trusted_at, %s), halted_since = NULL""",
                [before.server_at],
            )
        elif not before.halted:
            tx.execute("UPDATE retention_clock SET halted_since = trusted_at")
        if halted or before.halted:
            _tell_of_clock(tx, before, step_seconds, halted=halted)
        trusted_at = before.trusted_at if halted else max(before.trusted_at, before.server_at)
        return ClockState(trusted_at, before.server_at, halted)


def hold_back_overdue(catalog: Catalog) -> bool:
    """Hold back what would expire most points of a group at once; whether anything is held back.

    A rule that is kept expires a point now and then. Most of a group at once is a rule that was
    changed, perhaps by mistake, or a service that was away for long.
    """
    with catalog.transaction() as tx:
        rows = tx.execute(_OVERDUE_AT_ONCE, [PASSING_COUNT_MAX, _OVERDUE_SHARE_MAX]).fetchall()
        keep_only(tx, Kind.OVERDUE, [(session, 0) for session, *_ in rows])
        groups = dict.fromkeys(
            f"{points} of {tenant}/{group}" for _, tenant, group, points in rows if points
        )
        what = (
            f"catalog: retention keeps less than half of the recovery points of "
            f"{len(groups)} groups ({', '.join(list(groups)[:_NAMED_MAX])}); none of them expires."
        )
        return judge(tx, Kind.OVERDUE, lambda _: True, what)


def _keeps_all_of(rule: RetentionPolicy | None, other: RetentionPolicy | None) -> bool:
    """Whether a rule keeps whatever another one keeps. No rule keeps everything."""
    if rule is None or other is None:
        return rule is None
    return rule.keep_last >= other.keep_last and rule.keep_for_seconds >= other.keep_for_seconds


def _write_rule(tx: Tx, tenant: str, group: LockedGroup, rule: RetentionPolicy | None) -> None:
    if rule is None:
        tx.execute("DELETE FROM retention WHERE group_no = %s", [group.group_no])
    else:
        tx.execute(
            """INSERT INTO retention (group_no, keep_last, keep_for_seconds)
               VALUES (%s, %s, %s)
               ON CONFLICT (group_no) DO UPDATE
               SET keep_last = excluded.keep_last,
                   keep_for_seconds = excluded.keep_for_seconds""",
            [group.group_no, rule.keep_last, rule.keep_for_seconds],
        )
    event = RetentionChanged(
        group=group.group_id,
        keep_last=rule.keep_last if rule else None,
        keep_for_seconds=rule.keep_for_seconds if rule else 0,
    )
    append(tx, "catalog", [Entry(event, tenant, str(group.group_id))])


def _tell_of_clock(tx: Tx, before: ClockState, step_seconds: float, *, halted: bool) -> None:
    item = [(before.trusted_at.isoformat(), 0)] if halted else []
    keep_only(tx, Kind.CLOCK, item)
    what = (
        f"catalog: the clock of Postgres jumped by {step_seconds:.0f} s; retention gives up "
        f"nothing until it is back."
    )
    judge(tx, Kind.CLOCK, lambda _: True, what)
