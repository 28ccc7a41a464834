"""``backcast node``: the hosts that run agents."""

import argparse
from typing import TYPE_CHECKING
from urllib.parse import quote

from services.cli.commands.effects import DECLINED_EXIT_CODE, add_effect_options, agreed, listed
from services.cli.connection import connect
from services.cli.output import Column, Document, Output, human_time, table
from services.cli.times import seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterable

#: How many volumes are named.
_SHOWN_MAX = 10


def add_parser(
    nouns: "argparse._SubParsersAction[argparse.ArgumentParser]",
    everywhere: argparse.ArgumentParser,
) -> None:
    """Add ``node`` and its verbs."""
    text = "hosts that run agents; all verbs need a token for all tenants"
    node = nouns.add_parser("node", parents=[everywhere], help=text, description=text)
    verbs = node.add_subparsers(required=True, metavar="COMMAND")
    text = "list the nodes, and which of them are silent"
    lister = verbs.add_parser("list", parents=[everywhere], help=text, description=text)
    lister.set_defaults(run=_list)
    text = "show a node, the volumes on it, and what its agent may open"
    show = verbs.add_parser("show", parents=[everywhere], help=text, description=text)
    show.add_argument("name", metavar="NODE", help="which")
    show.set_defaults(run=_show)
    text = "print an invitation, by which an agent gets the credential of its node; it is a secret"
    invite = verbs.add_parser("invite", parents=[everywhere], help=text, description=text)
    invite.add_argument(
        "name",
        nargs="?",
        metavar="NODE",
        help="the only node that it is good for, once, also where the node has a credential "
        "already (default: names that no node has had)",
    )
    invite.add_argument(
        "--count", type=int, default=1, metavar="N", help="without NODE: how many (default: 1)"
    )
    invite.add_argument(
        "--valid", default="24h", metavar="TIME", help="how long: 30m, 24h, 7d (default: 24h)"
    )
    invite.set_defaults(run=_invite)
    text = "let a node's credential count no more; its volumes and their snapshots stay"
    forget = verbs.add_parser("forget", parents=[everywhere], help=text, description=text)
    forget.add_argument("name", metavar="NODE", help="which")
    add_effect_options(forget)
    forget.set_defaults(run=_forget)


def _list(args: argparse.Namespace) -> int:
    Output(as_json=args.json).show_all(
        connect(args).coordinator.get("/v1/nodes"),
        [
            Column("node", lambda one: one["name"]),
            Column("state", _state),
            Column("last heard", _heard),
            Column("address", lambda one: one["rpc_url"] or "-"),
            Column("version", lambda one: one["version"] or "-"),
            Column("volumes", lambda one: one["source_count"], right=True),
        ],
    )
    return 0


def _show(args: argparse.Namespace) -> int:
    found = connect(args).coordinator.get(f"/v1/nodes/{quote(args.name, safe='')}")
    Output(as_json=args.json).show(found, _described)
    return 0


def _described(node: Document) -> str:
    roots = node["roots"]
    lines = [
        f"node        {node['name']}",
        f"state       {_state(node)}",
        f"last heard  {_heard(node)}",
        f"address     {node['rpc_url'] or '-'}",
        f"spans       {node['span_address'] or '-'}",
        f"boot        {node['boot'] or '-'}",
        f"version     {node['version'] or '-'}",
        f"roots       {', '.join(roots) if roots is not None else 'its agent does not answer'}",
    ]
    if node["sources"]:
        columns = [
            Column("tenant", lambda one: one["tenant"]),
            Column("volume", lambda one: one["volume"]),
            Column("group", lambda one: one["group"]),
            Column("path", lambda one: one["path"]),
        ]
        lines += ["", table(columns, node["sources"])]
    return "\n".join(lines)


def _invite(args: argparse.Namespace) -> int:
    valid = seconds_of("--valid", args.valid)
    body = {"node": args.name, "count": args.count, "valid_seconds": valid}
    made = connect(args).coordinator.post("/v1/invitations", body)
    out = Output(as_json=args.json)
    out.show(made, made["invitation"])
    whom = f"node {made['node']}, once" if made["node"] else f"{made['count']} new nodes"
    out.note(
        f"good for {whom}, until {human_time(made['expires_at'])}; put it in a file for the agent "
        f"(BACKCAST_AGENT_INVITATION_FILE)"
    )
    return 0


def _forget(args: argparse.Namespace) -> int:
    coordinator, out = connect(args).coordinator, Output(as_json=args.json)
    path = f"/v1/nodes/{quote(args.name, safe='')}"
    effects = _effects(args.name, coordinator.get(path)["sources"])
    if args.dry_run:
        for effect in effects or [f"node {args.name}: no volume is on it"]:
            out.note(effect)
        return 0
    if not agreed(args, out, effects):
        return DECLINED_EXIT_CODE
    done = coordinator.post(f"{path}/forget")
    out.show(
        done,
        f"{args.name}: forgotten; its agent is refused until it enrols by an invitation for this "
        f"name (`backcast node invite {args.name}`)",
    )
    return 0


def _effects(name: str, sources: "Iterable[Document]") -> list[str]:
    volumes = [f"{one['tenant']}/{one['volume']}" for one in sources]
    if not volumes:
        return []
    more = len(volumes) - _SHOWN_MAX
    named = volumes[:_SHOWN_MAX] + ([f"{more} more"] if more > 0 else [])
    effect = (
        f"node {name} has {listed(named)}: their snapshots stay and can be restored, but no more "
        f"are taken until an agent enrols under this name"
    )
    return [effect]


def _state(node: Document) -> str:
    if node["state"] == "silent":
        return f"silent since {human_time(node['heard_at'])}"
    return str(node["state"])


def _heard(node: Document) -> str:
    return human_time(node["heard_at"]) if node["heard_at"] else "never"
