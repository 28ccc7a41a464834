"""``backcast volume``: which block address spaces are protected."""

import argparse
from collections.abc import Iterator
from urllib.parse import quote

from libs.sizes import human_bytes
from services.cli.commands.protected.sharing import add_sharing_verbs, place_of, written_by
from services.cli.commands.protected.volume_changes import DRIVERS, add_change_verbs
from services.cli.commands.retaining import add_volume_verbs
from services.cli.connection import connect
from services.cli.output import Column, Document, Output, human_time


def add_parser(
    nouns: "argparse._SubParsersAction[argparse.ArgumentParser]",
    everywhere: argparse.ArgumentParser,
) -> None:
    """Add ``volume`` and its verbs."""
    volume = nouns.add_parser(
        "volume", parents=[everywhere], help="protected disks, partitions and images"
    )
    verbs = volume.add_subparsers(required=True, metavar="COMMAND")
    text = "protect a volume; repeating it is harmless"
    add = verbs.add_parser("add", parents=[everywhere], help=text, description=text)
    add.add_argument("name", metavar="NAME", help="its name, unique in the tenant")
    add.add_argument(
        "path",
        metavar="PATH",
        nargs="?",
        help="file or block device on its node; with --driver qemu, a disk of a VM behind its QMP "
        "socket: SOCKET/NODE, or SOCKET/machine/peripheral/ID",
    )
    add.add_argument(
        "--node",
        action="append",
        metavar="NODE[:PATH]",
        help="node that the path is on (needless if there is one node); NODE:PATH for each of the "
        "2 to 8 nodes that write the volume, instead of PATH: the first one captures it",
    )
    add.add_argument("--group", help="volumes of a group are cut together (default: its own)")
    add.add_argument(
        "--freeze",
        metavar="MOUNTPOINT",
        help="freeze the file system that is mounted there on the node while the volume is cut",
    )
    add.add_argument(
        "--driver",
        choices=DRIVERS,
        help="how changes are known: `scan` reads everything each time (the default), `reflink` "
        "compares clones of a file on XFS or btrfs, `qemu` asks the dirty bitmap of a VM's disk, "
        "`filter` asks the volume filter in front of it",
    )
    add.add_argument(
        "--again", action="store_true", help="although another volume has the same path"
    )
    add.set_defaults(run=_add)
    text = "list the tenant's volumes"
    lister = verbs.add_parser("list", parents=[everywhere], help=text, description=text)
    lister.add_argument("--removed", action="store_true", help="those that were removed instead")
    lister.set_defaults(run=_list)
    text = "show a volume, protected or removed"
    show = verbs.add_parser("show", parents=[everywhere], help=text, description=text)
    show.add_argument("name", metavar="NAME", help="volume")
    show.set_defaults(run=_show)
    add_sharing_verbs(verbs, everywhere)
    add_change_verbs(verbs, everywhere)
    add_volume_verbs(verbs, everywhere)


#: Options of `add` that the coordinator has a default for.
_GIVEN = ("group", "freeze", "driver")


def _add(args: argparse.Namespace) -> int:
    services = connect(args)
    body = {"name": args.name, **place_of(args.node or [], args.path)}
    body |= {key: value for key in _GIVEN if (value := getattr(args, key))}
    body |= {"again": True} if args.again else {}
    volume = services.coordinator.post(services.path("/volumes"), body)
    size = human_bytes(volume["size_bytes"])
    where = written_by(volume["nodes"])
    Output(as_json=args.json).show(volume, f"{volume['name']}: {where}, {size}")
    return 0


def _list(args: argparse.Namespace) -> int:
    columns = [Column("removed", _removed)] if args.removed else [Column("paused", _paused)]
    Output(as_json=args.json).show_all(
        connect(args).get("/volumes", {"removed": "true"} if args.removed else None),
        [
            Column("name", lambda volume: volume["name"]),
            Column("group", lambda volume: volume["group"]),
            Column("node", lambda volume: volume["node"]),
            Column("path", lambda volume: volume["path"]),
            Column("latest", _latest),
            *columns,
        ],
    )
    return 0


def _latest(volume: Document) -> str:
    point = volume["latest"]
    return f"@{point['sequence']}, {human_time(point['sealed_at'])}" if point else "none"


def _removed(volume: Document) -> str:
    return f"{human_time(volume['removed_at'])} by {volume['removed_by']}"


def _paused(volume: Document) -> str:
    return f"by {volume['paused_by']}" if volume["paused_at"] else "-"


def _show(args: argparse.Namespace) -> int:
    services = connect(args)
    found = services.get(f"/volumes/{quote(args.name)}")
    Output(as_json=args.json).show(found, lambda found: "\n".join(_lines(found)))
    return 0


def _lines(volume: Document) -> Iterator[str]:
    figures = {
        "volume": volume["name"],
        "id": volume["volume"],
        "group": volume["group"],
        "place": written_by(volume["nodes"]),
        "driver": volume["driver"],
        "freezes": volume["freeze"] or "nothing",
        "state": _state(volume),
        "latest": _latest(volume),
        "points": volume["points"],
    }
    if volume["oldest_at"]:
        figures["since"] = human_time(volume["oldest_at"])
    if volume["latest"]:
        figures["size"] = human_bytes(volume["latest"]["size_bytes"])
    for name, value in figures.items():
        yield f"{name:<8} {value}"


def _state(volume: Document) -> str:
    if volume["removed_at"]:
        return f"removed {_removed(volume)}; its recovery points expire as its group's do"
    if volume["paused_at"]:
        since = human_time(volume["paused_at"])
        return f"paused since {since} by {volume['paused_by']}: {volume['paused_reason']}"
    return "protected"
