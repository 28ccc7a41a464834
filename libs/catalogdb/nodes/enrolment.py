"""Nodes' credentials: how a node gets one, which one counts, and what forgetting a node does.

A node has one credential that counts, `node.credential`. It is set in two ways. Either an agent
exchanges an *invitation* for it (`enrol`), or an agent announces itself by a credential that the
coordinator's key made and that nobody has claimed for this name yet (`announce_node`). Every other
credential of the name is refused from then on. A forgotten node keeps its row, so that its old
credential cannot come back: only an invitation for its name sets a new one.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.protected import NO_BOOT, Node
from libs.catalogdb.recovery.incarnation import require_reconciled
from libs.catalogdb.rows import all_rows, one_row
from libs.errors import ConflictError, ForbiddenError, NotFoundError
from libs.ids import NodeIdentity, uuid7


@dataclass(frozen=True, slots=True)
class Invitation:
    """The right to one or more new credentials of nodes, until a moment."""

    invitation: UUID
    #: The only name that it is good for; None: any name that no node has had.
    node: str | None
    left_count: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class NodeOverview:
    """A node as an operator sees it."""

    name: str
    rpc_url: str
    span_address: str
    boot: UUID
    version: str
    seen_at: datetime
    #: Seconds since `seen_at`, by the clock of Postgres.
    silent_seconds: float
    forgotten_at: datetime | None
    has_credential: bool
    #: Sources on it.
    source_count: int


@dataclass(frozen=True, slots=True)
class NodeSource:
    """A source on a node, and the volume that it is of."""

    tenant: str
    volume: str
    group: str
    path: str
    lead: bool


def invite(catalog: Catalog, node: str | None, count: int, valid_seconds: float) -> Invitation:
    """Make an invitation; one for a name takes the place of an older one for it.

    Args:
        catalog: the catalog.
        node: the only name that it is good for, also where a node has that name already; None: any
            name that no node has had.
        count: how many nodes may use it; 1 if it is for one name.
        valid_seconds: how long.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        tx.execute("DELETE FROM invitation WHERE expires_at < now() OR node = %s", [node])
        made = one_row(
            tx,
            Invitation,
            """INSERT INTO invitation (invitation, node, left_count, expires_at)
               VALUES (%s, %s, %s, now() + make_interval(secs => %s))
               RETURNING invitation, node, left_count, expires_at""",
            [uuid7(), node, count, valid_seconds],
        )
    assert made is not None
    return made


def enrol(catalog: Catalog, invitation: UUID, node: NodeIdentity, known: Node | None) -> None:
    """Spend an invitation, and make a credential the one of its node that counts: one transaction.

    The same exchange again changes nothing while the node has not announced itself by the new
    credential: its agent may not have got the answer. The node's address is forgotten, so nothing
    is ordered from it before it announces itself.

    Args:
        catalog: the catalog.
        invitation: as its bearer has proved it.
        node: with the credential that is to count.
        known: the node as the caller has judged it; None: there was none.

    Raises:
        ForbiddenError: the invitation is spent, too old, or for another name.
        ConflictError: it is for new nodes, and the name is or was a node's; or the node has changed
            since the caller looked.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        row = one_row(tx, _Enrolled, _ENROLLED + " FOR UPDATE", [node.name])
        if row and (row.credential, row.invitation) == (node.credential, invitation):
            if row.boot == NO_BOOT:
                return
            raise ForbiddenError(_SPENT)
        spent = tx.execute(
            """UPDATE invitation SET left_count = left_count - 1
               WHERE invitation = %s AND left_count > 0 AND expires_at > now()
                 AND (node IS NULL OR node = %s) RETURNING node""",
            [invitation, node.name],
        ).fetchone()
        if spent is None:
            raise ForbiddenError(_SPENT)
        if row and spent[0] is None:
            raise ConflictError(
                f"node {node.name}: this name is or was a node's, and the invitation is for new "
                f"ones; `backcast node invite {node.name}` makes one for it"
            )
        judged = (known.credential, known.boot) if known else (None, None)
        recorded = tx.execute(
            """INSERT INTO node (name, rpc_url, span_address, boot, credential, invitation)
               VALUES (%s, '', '', %s, %s, %s)
               ON CONFLICT (name) DO UPDATE
               SET rpc_url = '', span_address = '', boot = excluded.boot,
                   credential = excluded.credential, invitation = excluded.invitation,
                   forgotten_at = NULL
               WHERE (node.credential, node.boot) IS NOT DISTINCT FROM (%s::uuid, %s::uuid)
               RETURNING name""",
            [node.name, NO_BOOT, node.credential, invitation, *judged],
        ).fetchone()
        if recorded is None:
            raise ConflictError(f"node {node.name}: it has changed meanwhile; try again")


def forget_node(catalog: Catalog, name: str) -> list[NodeSource]:
    """Let a node's credential count no more and forget its address; its sources, which stay.

    Doing it again changes nothing. Its volumes and their snapshots stay. Nothing is captured from
    it until an agent enrols under its name again.

    Raises:
        NotFoundError: there is no node of this name.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        found = tx.execute(
            """UPDATE node SET credential = NULL, invitation = NULL, rpc_url = '',
                               span_address = '', boot = %s,
                               forgotten_at = coalesce(forgotten_at, now())
               WHERE name = %s RETURNING name""",
            [NO_BOOT, name],
        ).fetchone()
        if found is None:
            raise _unknown(name)
        tx.execute("DELETE FROM invitation WHERE node = %s", [name])
        return _sources(tx, name)


def known_node(catalog: Catalog, name: str) -> tuple[Node, bool] | None:
    """A node of this name, announced or not, and whether it was forgotten; None: there is none."""
    with catalog.transaction() as tx:
        row = tx.execute(
            """SELECT name, rpc_url, span_address, boot, credential, forgotten_at IS NOT NULL
               FROM node WHERE name = %s""",
            [name],
        ).fetchone()
    return (Node(*row[:5]), bool(row[5])) if row else None


def overview(catalog: Catalog) -> list[NodeOverview]:
    """All nodes, by name; those that were forgotten as long as something of theirs is left."""
    with catalog.transaction() as tx:
        return all_rows(tx, NodeOverview, _OVERVIEW + " ORDER BY n.name")


def node_details(catalog: Catalog, name: str) -> tuple[NodeOverview, list[NodeSource]]:
    """A node and the sources on it.

    Raises:
        NotFoundError: there is none of this name.
    """
    with catalog.transaction() as tx:
        found = one_row(tx, NodeOverview, _OVERVIEW + " AND n.name = %s", [name])
        if found is None:
            raise _unknown(name)
        return found, _sources(tx, name)


@dataclass(frozen=True, slots=True)
class _Enrolled:
    credential: UUID | None
    invitation: UUID | None
    boot: UUID


_SPENT = (
    "invitation: it was used, its time is over, or it is for another node; "
    "`backcast node invite` makes another one"
)
_ENROLLED = "SELECT credential, invitation, boot FROM node WHERE name = %s"
_OVERVIEW = """
    SELECT n.name, n.rpc_url, n.span_address, n.boot, n.version, n.seen_at,
           extract(epoch FROM now() - n.seen_at)::float8 AS silent_seconds, n.forgotten_at,
           n.credential IS NOT NULL AS has_credential,
           used.source_count
    FROM node n, LATERAL (SELECT count(*) AS source_count
                          FROM source s JOIN volume v USING (volume_no)
                          WHERE s.node_no = n.node_no AND v.removed_at IS NULL) used
    WHERE (n.forgotten_at IS NULL OR used.source_count > 0)"""


def _sources(tx: Tx, name: str) -> list[NodeSource]:
    return all_rows(
        tx,
        NodeSource,
        """SELECT t.name AS tenant, v.name AS volume, g.name AS group, s.path, s.lead
           FROM source s JOIN node n USING (node_no) JOIN volume v USING (volume_no)
           JOIN volume_group g USING (group_no) JOIN tenant t ON t.tenant_no = v.tenant_no
           WHERE n.name = %s AND v.removed_at IS NULL ORDER BY t.name, v.name""",
        [name],
    )


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(
        f"node {name}: there is none of this name; `backcast node list` shows what there is"
    )
