"""What nobody commits, and a look at the catalog finds: silent nodes, a relay that is behind.

Each function is one transaction, and repeating it does no harm: what is wrong is opened or seen
again, and what is over is resolved. A crash between two looks leaves what the last one found.
"""

from collections.abc import Sequence

from libs.catalogdb.log.log import append
from libs.catalogdb.notifications.damage import tell_damage
from libs.catalogdb.notifications.opening import (
    EVERYBODY,
    OPEN_COUNT_MAX,
    Finding,
    Kind,
    is_compared,
    open_notification,
    resolve_notifications,
    resolve_others,
)
from libs.catalogdb.pool import Catalog, Tx


def review_nodes(catalog: Catalog, silent_seconds: float) -> None:
    """Find the nodes with volumes whose agents have not announced themselves for so long.

    An announcement resolves what this opens. It waits for the node's row, which is locked here; one
    that has the row at this moment is no silence.
    """
    with catalog.transaction() as tx:
        if not is_compared(tx):
            return
        names = [
            name
            for (name,) in tx.execute(
                """SELECT name FROM node n WHERE seen_at < now() - make_interval(secs => %s)
                     AND EXISTS (SELECT FROM source s JOIN volume v USING (volume_no)
                                 WHERE s.node_no = n.node_no AND v.removed_at IS NULL)
                   ORDER BY name FOR UPDATE OF n SKIP LOCKED""",
                [silent_seconds],
            )
        ]
        findings = [
            Finding(
                kind=Kind.NODE_SILENT,
                about=name,
                tenant=EVERYBODY,
                severity="error",
                message=(
                    f"node {name}: its agent has not announced itself for more than "
                    f"{silent_seconds:.0f} s; nothing of the node can be backed up. Is the agent "
                    f"running, and does it reach the coordinator?"
                ),
                names={"node": name},
            )
            for name in names
        ]
        _keep(tx, Kind.NODE_SILENT, findings, "its agent has announced itself, or has no volume")


def review_chunkers(catalog: Catalog, *, is_missing: bool) -> None:
    """Tell that no chunker takes captures, if any volume is protected.

    Args:
        catalog: the catalog, in the catalog service's role.
        is_missing: none was found to do so for long enough.
    """
    with catalog.transaction() as tx:
        if not is_compared(tx):
            return
        volume = tx.execute("SELECT 1 FROM volume WHERE removed_at IS NULL LIMIT 1").fetchone()
        finding = Finding(
            kind=Kind.NO_CHUNKER,
            about="chunkers",
            tenant=EVERYBODY,
            severity="error",
            message=(
                "no chunker takes captures, so no snapshot is sealed. Does one run, and does it "
                "reach Postgres and Kafka? `backcast status` says what is known of each"
            ),
            names={},
        )
        findings = [finding] if is_missing and volume else []
        _keep(tx, Kind.NO_CHUNKER, findings, "a chunker takes captures")


def review_groups(catalog: Catalog) -> None:
    """Resolve what was told of groups whose volumes were all removed: no session ever will."""
    with catalog.transaction() as tx:
        if not is_compared(tx):
            return
        rows = tx.execute(
            """SELECT about FROM notification n WHERE kind = %s
                 AND NOT EXISTS (SELECT FROM volume_group g JOIN volume v USING (group_no)
                                 WHERE g.group_id::text = n.about AND v.removed_at IS NULL)""",
            [Kind.SESSION_REJECTED],
        ).fetchall()
        reason = "its volumes were removed"
        about = [about for (about,) in rows]
        append(tx, "catalog", resolve_notifications(tx, Kind.SESSION_REJECTED, about, reason))


def relay_lags(tx: Tx) -> dict[str, float]:
    """Topic → age in seconds of its oldest event that Kafka has not acknowledged; 0: there is none.

    Reads one row of the log for each topic.
    """
    return dict(
        tx.execute(
            """SELECT p.topic, greatest(0, coalesce(extract(epoch FROM now() - (
                          SELECT e.occurred_at FROM event_log e
                          WHERE e.topic = p.topic AND e.position > p.published
                          ORDER BY e.position LIMIT 1)), 0))::float8
               FROM log_position p ORDER BY p.topic"""
        ).fetchall()
    )


def review_relay(catalog: Catalog, lag_seconds_max: float) -> None:
    """Find the topics of which Kafka lacks events for so long."""
    with catalog.transaction() as tx:
        if not is_compared(tx):
            return
        findings = [
            Finding(
                kind=Kind.RELAY_BEHIND,
                about=topic,
                tenant=EVERYBODY,
                severity="warning",
                message=(
                    f"topic {topic}: Kafka has not acknowledged events for more than "
                    f"{lag_seconds_max:.0f} s. Is Kafka down, is a disk of its brokers full, or "
                    f"does the catalog service's relay fail? Its log says why"
                ),
                names={},
            )
            for topic, seconds in relay_lags(tx).items()
            if seconds > lag_seconds_max
        ]
        _keep(tx, Kind.RELAY_BEHIND, findings, "Kafka has acknowledged what was behind")


def review_damage(catalog: Catalog) -> None:
    """Open what was beyond the bound, or was found before the catalog might tell of it."""
    with catalog.transaction() as tx:
        if not is_compared(tx):
            return
        rows = tx.execute(
            """SELECT d.pack_no, min(d.reason)
               FROM damage d JOIN pack p USING (pack_no)
               WHERE d.healed_at IS NULL AND p.state = 'l'
                 AND NOT EXISTS (SELECT FROM notification n WHERE n.kind = %s
                                   AND n.about = replace(p.generation::text, '-', ''))
               GROUP BY d.pack_no ORDER BY d.pack_no LIMIT greatest(0, %s - (
                   SELECT count(*) FROM notification WHERE kind = %s))""",
            [Kind.DAMAGE, OPEN_COUNT_MAX, Kind.DAMAGE],
        ).fetchall()
        told = []
        for pack_no, reason in rows:
            # As who records damage: nobody condemns or repairs it between our look and the row.
            row = tx.execute(
                "SELECT FROM pack WHERE pack_no = %s AND state = 'l' FOR UPDATE", [pack_no]
            ).fetchone()
            left = tx.execute(
                "SELECT FROM damage WHERE pack_no = %s AND healed_at IS NULL LIMIT 1", [pack_no]
            ).fetchone()
            if row is not None and left is not None:
                told += tell_damage(tx, pack_no, reason)
        append(tx, "catalog", told)


def keep_found(catalog: Catalog, kind: Kind, findings: Sequence[Finding], over: str) -> None:
    """Open what a look has found of a kind, and resolve everything else of it.

    Args:
        catalog: the catalog, in the catalog service's role.
        kind: of all findings.
        findings: everything of this kind that is wrong now.
        over: why the others are over, for people.
    """
    with catalog.transaction() as tx:
        if is_compared(tx):
            _keep(tx, kind, findings, over)


def _keep(tx: Tx, kind: Kind, findings: Sequence[Finding], over: str) -> None:
    ordered = sorted(findings, key=lambda finding: finding.about)
    opened = [entry for finding in ordered for entry in open_notification(tx, finding)]
    others = resolve_others(tx, kind, [finding.about for finding in ordered], over)
    append(tx, "catalog", [*opened, *others])
