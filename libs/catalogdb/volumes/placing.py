"""Where a volume's bytes are: its lead source, and whether another volume is at the same place."""

from libs.catalogdb.pool import Tx
from libs.errors import ConflictError, NotFoundError


def place(  # noqa: PLR0913 -- the columns of a row
    tx: Tx, volume_no: int, node: str, path: str, freeze: str | None, driver: str
) -> None:
    """Replace a volume's lead source in the caller's transaction.

    The row is deleted and made anew, because its node is part of the name by which checkpoints
    know it. Its epoch is another one, so that no tracker takes the new place for the old one.

    Raises:
        NotFoundError: no such node.
    """
    row = tx.execute(
        "DELETE FROM source WHERE volume_no = %s AND lead RETURNING epoch", [volume_no]
    ).fetchone()
    assert row is not None
    placed = tx.execute(
        """INSERT INTO source (volume_no, node_no, path, driver, epoch, freeze_mount)
           SELECT %s, node_no, %s, %s, %s, %s FROM node WHERE name = %s""",
        [volume_no, path, driver, row[0] + 1, freeze, node],
    )
    if not placed.rowcount:
        raise NotFoundError(f"node {node}: no agent has announced itself under this name")


def refuse_same_path(tx: Tx, tenant: str, node: str, path: str, *, but: str) -> None:
    """Refuse a place where another protected volume of the tenant is; other tenants' are not told.

    Paths are compared as they are written, but for repeated slashes and single dots. What links
    lead to, only the node knows.

    Args:
        tx: the caller's transaction, which has locked the tenant.
        tenant: name of the tenant.
        node: name of the node.
        path: path on it.
        but: name of the volume that is to be there.

    Raises:
        ConflictError: one is there; names it.
    """
    row = tx.execute(
        r"""SELECT v.name FROM volume v JOIN tenant t USING (tenant_no)
            JOIN source o USING (volume_no) JOIN node n USING (node_no)
            WHERE t.name = %(tenant)s AND n.name = %(node)s AND v.name <> %(but)s
              AND v.removed_at IS NULL
              AND regexp_replace(o.path || '/', '/(\.?/)*', '/', 'g')
                  = regexp_replace(%(path)s || '/', '/(\.?/)*', '/', 'g')
            LIMIT 1""",
        {"tenant": tenant, "node": node, "path": path, "but": but},
    ).fetchone()
    if row:
        raise ConflictError(
            f"volume {but}: volume {row[0]} of this tenant protects {node}:{path} already; to have "
            f"it twice, say so: --again"
        )
