"""``backcast session``: snapshots in the making, and those that came to nothing."""

import argparse
from collections.abc import Iterator
from uuid import UUID

from libs.errors import BadInputError
from libs.sizes import human_bytes
from services.cli.connection import connect
from services.cli.output import Column, Document, Output, human_time


def add_parser(
    nouns: "argparse._SubParsersAction[argparse.ArgumentParser]",
    everywhere: argparse.ArgumentParser,
) -> None:
    """Add ``session`` and its verbs."""
    session = nouns.add_parser(
        "session", parents=[everywhere], help="snapshots in the making, and those that failed"
    )
    verbs = session.add_subparsers(required=True, metavar="COMMAND")
    text = "list sessions, newest first; those that ended long ago are not there"
    lister = verbs.add_parser("list", parents=[everywhere], help=text, description=text)
    lister.add_argument("name", nargs="?", metavar="NAME", help="volume or group (default: all)")
    lister.add_argument(
        "--state", choices=("open", "sealed", "rejected"), help="only those in this state"
    )
    lister.add_argument(
        "--limit", type=int, default=100, metavar="N", help="so many at most (default: 100)"
    )
    lister.set_defaults(run=_list)
    text = "show how a session goes, or why it failed"
    show = verbs.add_parser("show", parents=[everywhere], help=text, description=text)
    show.add_argument("session", metavar="SESSION", help="its id")
    show.set_defaults(run=_show)
    text = "end an open session without a snapshot; one that was sealed stays"
    cancel = verbs.add_parser("cancel", parents=[everywhere], help=text, description=text)
    cancel.add_argument("session", metavar="SESSION", help="its id")
    cancel.add_argument("--reason", metavar="TEXT", default="", help="why, for people")
    cancel.set_defaults(run=_cancel)


def _list(args: argparse.Namespace) -> int:
    services = connect(args)
    query = {"name": args.name, "state": args.state, "limit": args.limit}
    Output(as_json=args.json).show_all(
        services.coordinator.get(services.path("/sessions"), query),
        [
            Column("opened at", lambda one: human_time(one["opened_at"])),
            Column("group", lambda one: one["group"]),
            Column("state", _state),
            Column("volumes", lambda one: len(one["volumes"]), right=True),
            Column("read", lambda one: human_bytes(one["read_bytes"]), right=True),
            Column("session", lambda one: one["session"]),
            Column("why", _why),
        ],
    )
    return 0


def _state(one: Document) -> str:
    return f"sealed @{one['sequence']}" if one["sequence"] else str(one["state"])


def _why(one: Document) -> str:
    return f"{one['code']}: {one['message'] or 'unknown'}" if one["code"] else ""


def _show(args: argparse.Namespace) -> int:
    services = connect(args)
    found = services.coordinator.get(services.path(f"/sessions/{_id(args.session)}"))
    Output(as_json=args.json).show(found, lambda found: "\n".join(_lines(found)))
    return 0


def _lines(found: Document) -> Iterator[str]:
    for name, value in found.items():
        if name != "parts":
            yield f"{name:<9} {'-' if value is None else value}"
    for part in found["parts"]:
        state = "finished" if part["finished"] else "in work" if part["attempts"] else "waiting"
        yield (
            f"{part['volume']}: {state}, {human_bytes(part['read_bytes'])} of "
            f"{human_bytes(part['logical_bytes'])} read, {human_bytes(part['sent_bytes'])} sent, "
            f"{human_bytes(part['stored_bytes'])} stored"
        )


def _cancel(args: argparse.Namespace) -> int:
    services = connect(args)
    path = services.path(f"/sessions/{_id(args.session)}/cancel")
    ended = services.coordinator.post(path, {"reason": args.reason})
    Output(as_json=args.json).show(
        ended, f"session {ended['session']} of {ended['group']}: {_why(ended)}"
    )
    return 0


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise BadInputError(
            f"session {text!r}: expected an id as `backcast session list` shows it"
        ) from None
