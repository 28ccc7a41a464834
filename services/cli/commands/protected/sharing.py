"""Volumes that several nodes write: ``--node NODE:PATH`` of ``volume add``, ``join``, ``leave``."""

import argparse
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from libs.errors import BadInputError
from services.cli.commands.protected.paths import absolute_path
from services.cli.connection import connect
from services.cli.output import Document, Output


def add_sharing_verbs(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]",
    everywhere: argparse.ArgumentParser,
) -> None:
    """Add the verbs to ``volume``."""
    text = "let one more node write a volume; its next snapshot compares everything"
    join = verbs.add_parser("join", parents=[everywhere], help=text, description=text)
    join.add_argument("name", metavar="NAME", help="volume")
    join.add_argument("--node", metavar="NODE:PATH", required=True, help="the node, and its path")
    join.add_argument("--again", action="store_true", help="although another volume is there")
    join.set_defaults(run=_join)
    text = (
        "say that a node writes a volume no more, because it was detached, or is dead and fenced; "
        "the volume's next snapshot compares everything"
    )
    leave = verbs.add_parser("leave", parents=[everywhere], help=text, description=text)
    leave.add_argument("name", metavar="NAME", help="volume")
    leave.add_argument("--node", metavar="NODE", required=True, help="the node")
    leave.set_defaults(run=_leave)


def place_of(nodes: Sequence[str], path: str | None) -> dict[str, Any]:
    """What ``volume add`` says of a volume's place: one node with a path, or several.

    Raises:
        BadInputError: neither is said, or both.
    """
    several = [node for node in nodes if ":" in node]
    if several:
        if path is not None or len(several) < len(nodes):
            raise BadInputError(
                "--node: expected NODE:PATH for each node that writes the volume and no PATH, or "
                "PATH and at most one node"
            )
        return {"nodes": [_place(node) for node in several]}
    if path is None or len(nodes) > 1:
        raise BadInputError(
            "PATH: expected it with at most one --node, or --node NODE:PATH for each of the nodes "
            "that write the volume"
        )
    return {"path": absolute_path(path), **({"node": nodes[0]} if nodes else {})}


def written_by(nodes: Sequence[Document]) -> str:
    """Where a volume is, for people."""
    places = [f"{one['path']} on node {one['node']}" for one in nodes]
    return places[0] if len(places) == 1 else f"{', '.join(places)} (the first one captures it)"


def _join(args: argparse.Namespace) -> int:
    services = connect(args)
    body = {**_place(args.node), "again": args.again}
    joined = services.coordinator.post(services.path(f"/volumes/{quote(args.name)}/join"), body)
    _show(args, joined)
    return 0


def _leave(args: argparse.Namespace) -> int:
    services = connect(args)
    where = services.path(f"/volumes/{quote(args.name)}/leave")
    _show(args, services.coordinator.post(where, {"node": args.node}))
    return 0


def _show(args: argparse.Namespace, volume: Document) -> None:
    where = written_by(volume["nodes"])
    text = f"{volume['name']}: {where}; its next snapshot compares everything"
    Output(as_json=args.json).show(volume, text)


def _place(text: str) -> dict[str, str]:
    node, _, path = text.partition(":")
    if not (node and path):
        raise BadInputError(f"--node {text}: expected NODE:PATH")
    return {"node": node, "path": absolute_path(path)}
