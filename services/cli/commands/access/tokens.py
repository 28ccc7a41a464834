"""``backcast token …``: who may use the services: add, list, revoke."""

import argparse
from typing import Any
from urllib.parse import quote

from libs.errors import BadInputError
from services.cli.connection import connect
from services.cli.output import Column, Document, Output, human_time
from services.cli.times import seconds_of

_ROLES = ("reader", "restore", "operator", "delete", "release", "admin")


def add_parser(nouns: Any, everywhere: argparse.ArgumentParser) -> None:
    """Add the noun and its verbs."""
    text = "tokens of people and programs: add, list, revoke"
    parser = nouns.add_parser("token", parents=[everywhere], help=text, description=text)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    text = "add a token and show it, once; services accept it within seconds"
    add = verbs.add_parser("add", parents=[everywhere], help=text, description=text)
    add.add_argument("name", metavar="NAME", help="for lists, holds and the audit log")
    add.add_argument(
        "--role",
        dest="roles",
        action="append",
        required=True,
        choices=_ROLES,
        help="what it may do; may be repeated, but not operator with delete",
    )
    whose = add.add_mutually_exclusive_group()
    whose.add_argument(
        "--group",
        dest="groups",
        action="append",
        default=[],
        metavar="GROUP",
        help="only this group of the tenant; may be repeated",
    )
    whose.add_argument(
        "--all-tenants", action="store_true", help="for every tenant, not only the one of --tenant"
    )
    add.add_argument("--expires", metavar="AGE", help="how long it lasts, such as 90d (s, m, h, d)")
    add.set_defaults(run=_add)
    text = "list tokens, without themselves; revoked ones last"
    lister = verbs.add_parser("list", parents=[everywhere], help=text, description=text)
    lister.set_defaults(run=_list)
    text = "revoke a token: nobody accepts it any more, and snapshots begun with it are rejected"
    revoke = verbs.add_parser("revoke", parents=[everywhere], help=text, description=text)
    revoke.add_argument("name", metavar="NAME", help="of the token")
    revoke.set_defaults(run=_revoke)


def _add(args: argparse.Namespace) -> int:
    services, out = connect(args), Output(as_json=args.json)
    if args.all_tenants and args.tenant:
        raise BadInputError("--all-tenants: goes with no --tenant")
    body = {
        "roles": list(dict.fromkeys(args.roles)),
        "tenant": "*" if args.all_tenants else services.tenant,
        "groups": args.groups,
        "lasts_seconds": seconds_of("--expires", args.expires) if args.expires else None,
    }
    added = services.catalog.post(f"/v1/tokens/{quote(args.name, safe='')}", body)
    out.note(f"{args.name}: {_what(added)}; nobody can show the token again")
    out.show(added, added["token"])
    return 0


def _list(args: argparse.Namespace) -> int:
    Output(as_json=args.json).show_all(
        connect(args).catalog.get("/v1/tokens"),
        [
            Column("name", lambda one: one["name"]),
            Column("roles", lambda one: ",".join(one["roles"])),
            Column("tenant", lambda one: one["tenant"]),
            Column("groups", lambda one: ",".join(one["groups"]) or "all"),
            Column("added at", lambda one: human_time(one["added_at"])),
            Column("added by", lambda one: one["added_by"]),
            Column("expires at", lambda one: _time(one["expires_at"])),
            Column("accepted", _accepted),
        ],
    )
    return 0


def _revoke(args: argparse.Namespace) -> int:
    path = f"/v1/tokens/{quote(args.name, safe='')}/revocation"
    revoked = connect(args).catalog.post(path)
    Output(as_json=args.json).show(revoked, f"{args.name}: revoked")
    return 0


def _what(token: Document) -> str:
    whose = "all tenants" if token["tenant"] == "*" else f"tenant {token['tenant']}"
    groups = f", group {', '.join(token['groups'])}" if token["groups"] else ""
    until = f", until {human_time(token['expires_at'])}" if token["expires_at"] else ""
    return f"role {', '.join(token['roles'])} for {whose}{groups}{until}"


def _time(instant: str | None) -> str:
    return human_time(instant) if instant else "never"


def _accepted(token: Document) -> str:
    if token["revoked_at"]:
        return f"no: revoked by {token['revoked_by']}"
    return "yes" if token["accepted"] else "no"
