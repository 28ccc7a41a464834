"""Notifications of damage: one for each live pack of which something is readable in no copy.

Opened by the transaction that records damage (`libs.catalogdb.packs.damage`), and resolved by the
one that ends a pack's last: repaired in another pack, found intact again, or the pack condemned.
Who resolves has locked the row before it looks whether damage is left, and who records damage sees
the row after it was written. So neither overlooks the other.
"""

from collections.abc import Collection
from uuid import UUID

from libs.catalogdb.log.log import Entry
from libs.catalogdb.notifications.opening import (
    EVERYBODY,
    Finding,
    Kind,
    is_compared,
    lock_notifications,
    open_notification,
    resolve_notifications,
    see_notification,
)
from libs.catalogdb.pool import Tx

#: Volumes that a notification names.
_NAMED_MAX = 10


def tell_damage(tx: Tx, pack_no: int, reason: str) -> list[Entry]:
    """Something of a live pack is damaged, which is written already; what to append to the log.

    Only the first reason is told: a pack of which a thousand items are met one by one is one
    notification.
    """
    row = tx.execute(
        """SELECT generation, (SELECT min(name) FROM tenant t WHERE t.domain_no = p.domain_no),
                  users_of_pack(pack_no, %s)
           FROM pack p WHERE pack_no = %s""",
        [_NAMED_MAX + 1, pack_no],
    ).fetchone()
    assert row is not None
    generation, tenant, volumes = row
    if not is_compared(tx) or see_notification(tx, Kind.DAMAGE, generation.hex):
        return []
    return open_notification(tx, _finding(generation, tenant or EVERYBODY, volumes, reason))


def tell_repaired(tx: Tx, packs: Collection[int]) -> list[Entry]:
    """Damage of some packs is over, which is written already; what to append to the log.

    Those of which other damage is left stay open.
    """
    if not packs or not is_compared(tx):
        return []
    rows = tx.execute(
        "SELECT pack_no, generation FROM pack WHERE pack_no = ANY(%s)", [list(packs)]
    ).fetchall()
    numbers = {generation.hex: pack_no for pack_no, generation in rows}
    is_open = lock_notifications(tx, Kind.DAMAGE, numbers.keys())
    if not is_open:
        return []
    left = tx.execute(  # a statement of its own: it sees what was committed before the locks
        "SELECT DISTINCT pack_no FROM damage WHERE pack_no = ANY(%s) AND healed_at IS NULL",
        [list(packs)],
    ).fetchall()
    over = is_open - {name for name in is_open if (numbers[name],) in left}
    reason = "everything that was damaged is repaired, intact after all, or no longer needed"
    return resolve_notifications(tx, Kind.DAMAGE, over, reason)


def _finding(generation: UUID, tenant: str, volumes: list[str], reason: str) -> Finding:
    named = ", ".join(volumes[:_NAMED_MAX]) or "none that is known"
    more = " and others" if len(volumes) > _NAMED_MAX else ""
    return Finding(
        kind=Kind.DAMAGE,
        about=generation.hex,
        tenant=tenant,
        severity="error",
        message=(
            f"pack {generation.hex}: something in it can be read in no store: {reason}. Volumes "
            f"that use it: {named}{more}. `backcast snapshot verify NAME` names the bytes; the "
            f"next snapshot repairs what its node still has"
        ),
        names={"volume": volumes[0]} if len(volumes) == 1 else {},
    )
