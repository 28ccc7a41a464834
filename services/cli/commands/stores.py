"""``backcast store …``: where data lie, giving a store up, filling one from the other."""

import argparse
from typing import Any
from urllib.parse import quote

from services.cli.connection import connect
from services.cli.output import Column, Document, Output


def add_parser(nouns: Any, everywhere: argparse.ArgumentParser) -> None:
    """Add the noun and its verbs."""
    text = "the object stores: list, lost, repair"
    parser = nouns.add_parser("store", parents=[everywhere], help=text, description=text)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    text = "list the stores, and what each of them lacks"
    lister = verbs.add_parser("list", parents=[everywhere], help=text, description=text)
    lister.set_defaults(run=_list)
    text = "say that what a store held is gone for good; nothing waits for it any more"
    lost = verbs.add_parser("lost", parents=[everywhere], help=text, description=text)
    lost.add_argument("name", metavar="STORE", help="primary or second")
    lost.set_defaults(run=_lost)
    text = "fill a store that came back, empty or not, from the other one"
    repair = verbs.add_parser("repair", parents=[everywhere], help=text, description=text)
    repair.add_argument("name", metavar="STORE", help="primary or second")
    repair.set_defaults(run=_repair)


def _list(args: argparse.Namespace) -> int:
    Output(as_json=args.json).show_all(
        connect(args).catalog.get("/v1/stores"),
        [
            Column("store", lambda one: one["name"]),
            Column("state", _state),
            Column("packs", lambda one: one["packs"], right=True),
            Column("to be made", lambda one: one["wanted"], right=True),
            Column("damaged", lambda one: one["damaged"], right=True),
            Column("to be deleted", lambda one: one["tombstones"], right=True),
            Column("lag s", lambda one: f"{one['lag_seconds']:.0f}", right=True),
            Column("bucket is", lambda one: one["store"] or "-"),
        ],
    )
    return 0


def _state(store: Document) -> str:
    state = str(store["state"])
    return state if store["configured"] else f"{state}, not configured"


def _lost(args: argparse.Namespace) -> int:
    found = connect(args).catalog.post(f"/v1/stores/{quote(args.name)}/loss")
    Output(as_json=args.json).show(found, f"{args.name}: given up; its copies are forgotten")
    return 0


def _repair(args: argparse.Namespace) -> int:
    found = connect(args).catalog.post(f"/v1/stores/{quote(args.name)}/repair")
    text = (
        f"{args.name}: is filled again from the other store; "
        f"`backcast store list` shows what is still to be made"
    )
    Output(as_json=args.json).show(found, text)
    return 0
