"""``backcast volume``: which block address spaces are protected."""

import argparse
from pathlib import Path

from libs.errors import BadInputError
from libs.printable import printable
from services.cli.commands.retaining import add_volume_verbs
from services.cli.connection import connect
from services.cli.output import Column, Document, Output, human_bytes, human_time


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
    add.add_argument("path", metavar="PATH", help="file or block device on its node")
    add.add_argument("--node", help="node that the path is on (needless if there is one node)")
    add.add_argument("--group", help="volumes of a group are cut together (default: its own)")
    add.add_argument(
        "--freeze",
        metavar="MOUNTPOINT",
        help="freeze the file system that is mounted there on the node while the volume is cut",
    )
    add.set_defaults(run=_add)
    text = "list the tenant's volumes"
    lister = verbs.add_parser("list", parents=[everywhere], help=text, description=text)
    lister.set_defaults(run=_list)
    add_volume_verbs(verbs, everywhere)


def _add(args: argparse.Namespace) -> int:
    services = connect(args)
    body = {"name": args.name, "path": _absolute(args.path)}
    body |= {key: value for key in ("node", "group", "freeze") if (value := getattr(args, key))}
    volume = services.coordinator.post(services.path("/volumes"), body)
    size = human_bytes(volume["size_bytes"])
    Output(as_json=args.json).show(
        volume, f"{volume['name']}: {volume['path']} on node {volume['node']}, {size}"
    )
    return 0


def _absolute(path: str) -> str:
    """A relative path means the caller's folder, if it means anything on the node."""
    try:
        absolute = str(Path(path).absolute())
    except FileNotFoundError:
        raise BadInputError(
            f"{path}: is relative to a folder that was deleted; give the whole path"
        ) from None
    try:
        absolute.encode()
    except UnicodeEncodeError:
        raise BadInputError(
            f"{printable(absolute)}: is not UTF-8, and a volume's path must be; give the file or "
            f"device another name, or a link to it"
        ) from None
    return absolute


def _list(args: argparse.Namespace) -> int:
    Output(as_json=args.json).show_all(
        connect(args).get("/volumes"),
        [
            Column("name", lambda volume: volume["name"]),
            Column("group", lambda volume: volume["group"]),
            Column("node", lambda volume: volume["node"]),
            Column("path", lambda volume: volume["path"]),
            Column("latest", _latest),
        ],
    )
    return 0


def _latest(volume: Document) -> str:
    point = volume["latest"]
    return f"@{point['sequence']}, {human_time(point['sealed_at'])}" if point else "none"
