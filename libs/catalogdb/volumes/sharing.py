"""Volumes that several nodes write: who they are, who joins and who leaves.

Each node has a row of `source`. One of them is the *lead*: it captures, and keeps the bytes of a
cut for the others, the *followers*. It stays the lead until it leaves; then the follower with the
first name is. All of them are members of the group's barrier. A node that does not answer there may
still write, as far as anybody here can tell: so it stays a member until somebody says that it has
left.

What a node that leaves has written since the base, nobody hears of any more; and what one that
joins has written before it did, nobody knows. So the next session on that base is not trusted
(`moved_after`, `SessionView.is_trusted`): everything is compared, and the snapshot says so. An open
session has its nodes, so a change waits for its end.
"""

from collections.abc import Sequence
from typing import NamedTuple

from libs.catalogdb.log.log import append
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.protected import Volume, insert_volume, read_volume, refuse_shared_name
from libs.catalogdb.volumes.locking import (
    LockedVolume,
    lock_names,
    lock_protected,
    lock_volume,
    refuse_while_open,
)
from libs.catalogdb.volumes.placing import refuse_same_path
from libs.catalogdb.volumes.returning import take_back
from libs.errors import BadInputError, ConflictError, NotFoundError

#: Nodes that write one volume. Each of them is told by the lead's filter, and holds its writes.
NODES_MAX = 8
#: The one driver that knows what other nodes write.
DRIVER = "filter"


class Place(NamedTuple):
    """A node that writes a volume, and where it has it."""

    node: str
    path: str

    def __str__(self) -> str:
        return f"{self.node}:{self.path}"


def check_places(places: Sequence[Place], driver: str, freeze: str | None) -> None:
    """Refuse nodes that cannot write one volume.

    Raises:
        BadInputError: too few or too many, one twice, or another driver than `filter`.
    """
    names = [place.node for place in places]
    if not 2 <= len(names) <= NODES_MAX or len(set(names)) < len(names):
        raise BadInputError(
            f"nodes {', '.join(names)}: expected 2 to {NODES_MAX} different ones that write the "
            f"same volume"
        )
    if driver != DRIVER or freeze is not None:
        raise BadInputError(
            f"driver {driver}: a volume that several nodes write needs the volume filter on each "
            f"of them (driver {DRIVER}), and nothing is frozen"
        )


def set_followers(tx: Tx, volume_no: int, followers: Sequence[Place]) -> None:
    """Let exactly these nodes write a volume besides its lead, in the caller's transaction.

    Raises:
        NotFoundError: no such node.
    """
    tx.execute("DELETE FROM source WHERE volume_no = %s AND NOT lead", [volume_no])
    for place in followers:
        _insert(tx, volume_no, place)


def share(  # noqa: PLR0913 -- what a client says of a volume
    catalog: Catalog,
    tenant: str,
    name: str,
    group: str | None,
    places: Sequence[Place],
    *,
    again: bool = False,
) -> Volume:
    """Protect a volume that several nodes write; adding it again unchanged returns it.

    Args:
        catalog: the catalog.
        tenant: name of the tenant.
        name: name of the volume.
        group: name of its group; None: the one that it was in, or one of its own name.
        places: the nodes, the lead first.
        again: although another volume of the tenant has one of these paths on its node.

    Raises:
        BadInputError: as of `check_places`.
        NotFoundError: no such tenant or node.
        ConflictError: as of `libs.catalogdb.protected.add_volume`.
        NotReconciledError: the catalog may have gone back in time.
    """
    check_places(places, DRIVER, None)
    lead, followers = places[0], sorted(places[1:])
    with catalog.transaction() as tx:
        lock_names(tx, tenant)
        known = lock_volume(tx, tenant, name)
        if known and not known.is_removed:
            if places_of(known) == [lead, *followers] and group in (None, known.of.group):
                return read_volume(tx, tenant, name)
            raise ConflictError(
                f"volume {name}: already protects {' and '.join(map(str, places_of(known)))} in "
                f"group {known.of.group}; choose another name, or let nodes join and leave it"
            )
        for place in places:
            if not again:
                refuse_same_path(tx, tenant, place.node, place.path, but=name)
        if known:
            entry = take_back(tx, tenant, known, group, *lead, None, DRIVER, is_shared=True)
            append(tx, "coordinator", [entry])
            if places_of(known)[1:] != followers:
                set_followers(tx, known.volume_no, followers)
                _distrust(tx, known)
            return read_volume(tx, tenant, name)
        refuse_shared_name(tx, tenant, name, group or name)
        insert_volume(tx, tenant, name, group or name, *lead, None, DRIVER)
        set_followers(tx, read_volume(tx, tenant, name).volume_no, followers)
        return read_volume(tx, tenant, name)


def join(catalog: Catalog, tenant: str, name: str, place: Place, *, again: bool = False) -> Volume:
    """Let one more node write a volume; one that does already, at the same path, changes nothing.

    Raises:
        NotFoundError: no such volume or node.
        BadInputError: there are too many, or the driver is not `filter`.
        ConflictError: the volume was removed, a session is open, the node has it under another
            path, or another volume is there.
        NotReconciledError: the catalog may have gone back in time.
    """
    with catalog.transaction() as tx:
        lock_names(tx, tenant)
        volume = lock_protected(tx, tenant, name)
        known = places_of(volume)
        if place in known:
            return read_volume(tx, tenant, name)
        if place.node in (one.node for one in known):
            raise ConflictError(
                f"volume {name}: node {place.node} writes it already, under another path; let it "
                f"leave first"
            )
        check_places([*known, place], volume.driver, volume.freeze)
        refuse_while_open(volume.of, f"node {place.node} cannot join")
        if not again:
            refuse_same_path(tx, tenant, place.node, place.path, but=name)
        _insert(tx, volume.volume_no, place)
        _distrust(tx, volume)
        return read_volume(tx, tenant, name)


def leave(catalog: Catalog, tenant: str, name: str, node: str) -> Volume:
    """Say that a node writes a volume no more: it does not have it any more, or it was fenced.

    Raises:
        NotFoundError: no such volume, or the node does not write it.
        ConflictError: the volume was removed, a session is open, or no other node writes it.
        NotReconciledError: the catalog may have gone back in time.
    """
    with catalog.transaction() as tx:
        lock_names(tx, tenant)
        volume = lock_protected(tx, tenant, name)
        names = [place.node for place in places_of(volume)]
        if node not in names:
            raise NotFoundError(
                f"volume {name}: node {node} does not write it; these do: {', '.join(names)}"
            )
        if len(names) == 1:
            raise ConflictError(
                f"volume {name}: no other node than {node} writes it; `backcast volume remove` or "
                f"`backcast volume move` it"
            )
        refuse_while_open(volume.of, f"node {node} cannot leave")
        tx.execute(
            """DELETE FROM source o USING node n
               WHERE o.node_no = n.node_no AND o.volume_no = %s AND n.name = %s""",
            [volume.volume_no, node],
        )
        if node == volume.node:
            tx.execute(
                """UPDATE source o SET lead = true FROM node n
                   WHERE o.node_no = n.node_no AND o.volume_no = %s AND n.name = %s""",
                [volume.volume_no, names[1]],
            )
        _distrust(tx, volume)
        return read_volume(tx, tenant, name)


def copy_followers(tx: Tx, volume: LockedVolume, tenant: str, name: str) -> None:
    """Let the nodes that write a volume write another one instead, in the caller's transaction."""
    set_followers(tx, read_volume(tx, tenant, name).volume_no, places_of(volume)[1:])


def places_of(volume: LockedVolume | Volume) -> list[Place]:
    """The lead, then the followers by name."""
    return [Place(volume.node, volume.path), *map(_place, volume.followers)]


def _place(text: str) -> Place:
    node, _, path = text.partition(":")  # no node's name has a colon
    return Place(node, path)


def _insert(tx: Tx, volume_no: int, place: Place) -> None:
    placed = tx.execute(
        """INSERT INTO source (volume_no, node_no, path, driver, lead)
           SELECT %s, node_no, %s, %s, false FROM node WHERE name = %s""",
        [volume_no, place.path, DRIVER, place.node],
    )
    if not placed.rowcount:
        raise NotFoundError(f"node {place.node}: no agent has announced itself under this name")


def _distrust(tx: Tx, volume: LockedVolume) -> None:
    """Nothing that was tracked since the group's head says all that has changed since."""
    tx.execute(
        "UPDATE volume SET moved_after = %s WHERE volume_no = %s",
        [volume.of.head_sequence, volume.volume_no],
    )
    tx.execute("UPDATE source SET epoch = epoch + 1 WHERE volume_no = %s", [volume.volume_no])
