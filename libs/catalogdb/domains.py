"""Which domains a group's block maps may name: grants, and the group's list of domains.

A tenant may be granted another tenant's domain. From its next session on, the domain is in the list
of each of its groups, and the position in the list is the *domain tag* in block maps. Nodes of maps
are shared across snapshots, so a list only grows: a tag means the same domain in all snapshots of
the group.

Order: the list grows in the transaction that opens a session, so before any chunk can be announced
with the new tag; the session's manifest has the list, and the seal compares both. A crash after the
session was opened leaves a tag that no snapshot uses, which is harmless. A catalog that was lost
takes the lists back from checkpoints and manifests, of which each must continue the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from libs.catalogdb.idempotence import idempotent
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.recovery.incarnation import require_reconciled
from libs.catalogdb.rows import all_rows
from libs.errors import BadInputError, ConflictError, DamagedDataError, NotFoundError


@dataclass(frozen=True, slots=True)
class GroupDomain:
    """A domain in a group's list; its position there is the domain tag."""

    domain_no: int
    domain: UUID
    #: Names the data key that new packs of the domain use; opens the id key as well.
    key_id: UUID
    #: Whether chunks of it may be announced. False: it was, and older snapshots may name it.
    granted: bool


def grant_domain(catalog: Catalog, domain: UUID, tenant: str) -> None:
    """Let a tenant use another tenant's domain; granting it again is harmless.

    Whoever may use a domain can learn which content is stored in it, and read that.

    Raises:
        NotFoundError: no such domain or tenant.
        BadInputError: it is the tenant's own.
        NotReconciledError: the catalog may have gone back in time.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        row = tx.execute(
            """SELECT d.domain_no, t.tenant_no, d.domain_no = t.domain_no
               FROM domain d, tenant t WHERE d.domain = %s AND t.name = %s""",
            [domain, tenant],
        ).fetchone()
        if row is None:
            raise NotFoundError(f"domain {domain} or tenant {tenant}: there is none of this name")
        domain_no, tenant_no, is_own = row
        if is_own:
            raise BadInputError(f"domain {domain}: is tenant {tenant}'s own, which needs no grant")
        add_grant(tx, domain_no, tenant_no)


def add_grant(tx: Tx, domain_no: int, tenant_no: int) -> None:
    """Record a grant in the caller's transaction; harmless if it is there."""
    tx.execute(
        """INSERT INTO domain_grant (domain_no, tenant_no) VALUES (%s, %s)
           ON CONFLICT DO NOTHING""",
        [domain_no, tenant_no],
    )


@idempotent
def keys_in_use(catalog: Catalog) -> set[tuple[UUID, UUID]]:
    """Domain and key id of the data keys of new packs, and of all packs that are there.

    Reads all packs, so it is for what people ask for.
    """
    with catalog.transaction() as tx:
        return set(
            tx.execute(
                """SELECT domain, key_id FROM domain
                   UNION SELECT domain, p.key_id FROM pack p JOIN domain USING (domain_no)
                   WHERE p.key_id IS NOT NULL"""
            )
        )


@dataclass(frozen=True, slots=True)
class TenantDomain:
    """A tenant, its own domain, and the data key of new packs."""

    tenant: str
    domain: UUID
    key_id: UUID


@idempotent
def tenant_domains(catalog: Catalog) -> list[TenantDomain]:
    """All tenants by name."""
    with catalog.transaction() as tx:
        return all_rows(
            tx,
            TenantDomain,
            """SELECT name AS tenant, domain, key_id FROM tenant JOIN domain USING (domain_no)
               ORDER BY name""",
        )


def use_data_key(catalog: Catalog, domain: UUID, before: UUID, key_id: UUID) -> None:
    """Have new packs and manifests of a domain sealed under another data key.

    Its wrapped key must already be in the store (scenario 14). What was begun under the one before
    ends under it, and stays readable.

    Raises:
        ConflictError: the domain's data key is not ``before`` any more.
        NotReconciledError: the catalog may have gone back in time.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        changed = tx.execute(
            "UPDATE domain SET key_id = %s WHERE domain = %s AND key_id IN (%s, %s)",
            [key_id, domain, before, key_id],
        )
        if not changed.rowcount:
            raise ConflictError(f"domain {domain}: somebody else gave it a new data key meanwhile")


def append_granted(tx: Tx, group_no: int) -> None:
    """Append what the tenant was granted since to its group's list.

    The caller has locked the group, so no other session makes tags.
    """
    tx.execute(
        """INSERT INTO group_domain (group_no, tag, domain_no)
           SELECT g.group_no, listed.count + row_number() OVER (ORDER BY a.granted_at, a.domain_no),
                  a.domain_no
           FROM volume_group g JOIN domain_grant a USING (tenant_no),
                LATERAL (SELECT count(*) FROM group_domain l WHERE l.group_no = g.group_no) listed
           WHERE g.group_no = %(group)s
             AND a.domain_no NOT IN (SELECT domain_no FROM group_domain WHERE group_no = %(group)s)
           ORDER BY a.granted_at, a.domain_no
           LIMIT 255 - (SELECT count(*) FROM group_domain WHERE group_no = %(group)s)""",
        {"group": group_no},
    )


def list_of_domains(tx: Tx, group_no: int) -> list[UUID]:
    """What each domain tag of a group means; number 0 is the tenant's own domain."""
    rows = tx.execute(
        """SELECT domain FROM domain_tag JOIN domain USING (domain_no)
           WHERE group_no = %s ORDER BY tag""",
        [group_no],
    )
    return [domain for (domain,) in rows]


def continue_list(tx: Tx, group: UUID, said: Sequence[UUID]) -> None:
    """Take over a group's list of domains from a manifest or checkpoint.

    In the caller's transaction. The domains must be known. What is listed stays; what ``said`` has
    beyond it is appended.

    Raises:
        DamagedDataError: a tag would mean another domain than it does, or a domain is unknown.
    """
    row = tx.execute(
        "SELECT group_no FROM volume_group WHERE group_id = %s FOR UPDATE", [group]
    ).fetchone()
    if row is None or not said:
        return
    listed = list_of_domains(tx, row[0])
    for tag, (known, other) in enumerate(zip(listed, said, strict=False)):
        if known != other:
            raise DamagedDataError(
                f"group {group}: domain tag {tag} means domain {known}, and is said to mean {other}"
            )
    for tag, domain in list(enumerate(said))[len(listed) :]:
        added = tx.execute(
            """INSERT INTO group_domain (group_no, tag, domain_no)
               SELECT %s, %s, domain_no FROM domain WHERE domain = %s""",
            [row[0], tag, domain],
        )
        if not added.rowcount:
            raise DamagedDataError(
                f"group {group}: domain tag {tag} means {domain}, an unknown one"
            )
