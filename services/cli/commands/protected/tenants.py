"""``backcast tenant``: the owners of volumes, and how much each may store."""

import argparse
import re
from urllib.parse import quote

from libs.errors import BadInputError
from libs.sizes import human_bytes
from services.cli.connection import connect
from services.cli.output import Column, Document, Output, human_time

_SIZE = re.compile(r"([0-9]{1,15})(?:([KMGTPE])(?:iB)?)?")
_UNITS = "KMGTPE"
#: From this share of its quota on a tenant is told that it will soon be full.
NEARLY_FULL = 0.8


def add_parser(
    nouns: "argparse._SubParsersAction[argparse.ArgumentParser]",
    everywhere: argparse.ArgumentParser,
) -> None:
    """Add ``tenant`` and its verbs."""
    tenant = nouns.add_parser(
        "tenant", parents=[everywhere], help="owners of volumes, and how much each may store"
    )
    verbs = tenant.add_subparsers(required=True, metavar="COMMAND")
    text = "list all tenants and the room that each takes"
    lister = verbs.add_parser("list", parents=[everywhere], help=text, description=text)
    lister.set_defaults(run=_list)
    text = "add a tenant with keys of its own; repeating it is harmless"
    add = verbs.add_parser("add", parents=[everywhere], help=text, description=text)
    add.add_argument("name", metavar="NAME", help="its name")
    add.add_argument("--quota", metavar="SIZE", help="what it may store, such as 500G or 2TiB")
    add.set_defaults(run=_add)
    text = "limit what a tenant stores; from then on, no session opens while it has more"
    limit = verbs.add_parser("quota", parents=[everywhere], help=text, description=text)
    limit.add_argument("name", metavar="NAME", help="which tenant")
    limit.add_argument("size", metavar="SIZE", help="such as 500G or 2TiB; or `none`")
    limit.set_defaults(run=_quota)


def _list(args: argparse.Namespace) -> int:
    Output(as_json=args.json).show_all(
        connect(args).coordinator.get("/v1/tenants"),
        [
            Column("tenant", lambda one: one["name"]),
            Column("volumes", lambda one: one["volumes"], right=True),
            Column("stored", lambda one: human_bytes(one["stored_bytes"]), right=True),
            Column("quota", _limit, right=True),
            Column("used", _used, right=True),
            Column("since", lambda one: human_time(one["created_at"])),
        ],
    )
    return 0


def _add(args: argparse.Namespace) -> int:
    body = {"name": args.name, "quota_bytes": _bytes(args.quota) if args.quota else None}
    made = connect(args).coordinator.post("/v1/tenants", body)
    Output(as_json=args.json).show(made, f"tenant {made['name']}: quota {_limit(made)}")
    return 0


def _quota(args: argparse.Namespace) -> int:
    services, out = connect(args), Output(as_json=args.json)
    body = {"quota_bytes": None if args.size == "none" else _bytes(args.size)}
    limited = services.coordinator.post(f"/v1/tenants/{quote(args.name)}/quota", body)
    stored = human_bytes(limited["stored_bytes"])
    out.show(limited, f"tenant {limited['name']}: quota {_limit(limited)}, stores {stored}")
    if limited["quota_bytes"] and limited["stored_bytes"] >= limited["quota_bytes"]:
        out.note("it stores as much already: no session of it opens; nothing is deleted")
    return 0


def _limit(one: Document) -> str:
    return human_bytes(one["quota_bytes"]) if one["quota_bytes"] else "none"


def _used(one: Document) -> str:
    if not one["quota_bytes"]:
        return "-"
    share = one["stored_bytes"] / one["quota_bytes"]
    mark = " FULL" if share >= 1 else " !" if share >= NEARLY_FULL else ""
    return f"{share:.0%}{mark}"


def _bytes(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None or not int(match[1]):
        raise BadInputError(
            f"size {text!r}: expected a number above 0 and K, M, G, T, P or E (of 1024), such as "
            f"500G"
        )
    power = _UNITS.index(match[2]) + 1 if match[2] else 0
    size: int = int(match[1]) * 1024**power
    if size > 2**62:
        raise BadInputError(f"size {text!r}: more than any store has; use `none`")
    return size
