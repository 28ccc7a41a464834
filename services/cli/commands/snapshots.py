"""``backcast snapshot``: takes, lists and shows recovery points."""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from libs.errors import BackcastError, BadInputError, error_class
from libs.ids import uuid7
from libs.points import LATEST, RecoveryPoint
from libs.sizes import human_bytes
from services.cli.commands.effects import (
    DECLINED_EXIT_CODE,
    add_effect_options,
    agreed,
    listed,
)
from services.cli.commands.retaining import add_snapshot_verbs, holds_of, list_expired
from services.cli.commands.taking import Hints, Session, groups_of, hints_of, not_named, take_all
from services.cli.commands.verifying import add_verify_parser
from services.cli.connection import Services, connect
from services.cli.output import Column, Document, Output, human_time
from services.cli.patience import get_page
from services.cli.progress import progress_bars

_WARNINGS = {
    "fuzzy": "the volume was written while it was read, so what is in it may contradict itself",
    "unvouched": "the volume is a device, or a file that other hosts may write, so nobody can say "
    "whether something wrote while it was read; if something did, what is in it may contradict "
    "itself",
}


def add_parser(
    nouns: "argparse._SubParsersAction[argparse.ArgumentParser]",
    everywhere: argparse.ArgumentParser,
) -> None:
    """Add ``snapshot`` and its verbs."""
    snapshot = nouns.add_parser(
        "snapshot", parents=[everywhere], help="recovery points of volumes and groups"
    )
    verbs = snapshot.add_subparsers(required=True, metavar="COMMAND")
    text = "take a snapshot of each group, all at once, and wait until it is sealed"
    take = verbs.add_parser("take", parents=[everywhere], help=text, description=text)
    take.add_argument("names", nargs="+", metavar="NAME", help="volume or group")
    take.add_argument("--full", action="store_true", help="use no base: compare everything")
    take.add_argument(
        "--hints",
        type=Path,
        metavar="FILE",
        help="read only what this JSON says has changed: of `rbd diff`, a list of offset and "
        "length, or CSI snapshot metadata",
    )
    take.add_argument(
        "--base",
        metavar="POINT",
        help="since which recovery point; must be the newest (with --hints)",
    )
    add_effect_options(take)
    take.set_defaults(run=_take)
    text = "list recovery points, newest first"
    lister = verbs.add_parser("list", parents=[everywhere], help=text, description=text)
    lister.add_argument("name", nargs="?", metavar="NAME", help="volume or group (default: all)")
    what = lister.add_mutually_exclusive_group()
    what.add_argument("--holds", action="store_true", help="only those that somebody holds")
    what.add_argument("--expired", action="store_true", help="those that were given up instead")
    lister.set_defaults(run=_list)
    text = "show one recovery point"
    show = verbs.add_parser("show", parents=[everywhere], help=text, description=text)
    show.add_argument(
        "point", metavar="NAME@POINT|SNAPSHOT", help="NAME alone is its newest; or a snapshot's id"
    )
    show.set_defaults(run=_show)
    add_verify_parser(verbs, everywhere)
    add_snapshot_verbs(verbs, everywhere)


def _take(args: argparse.Namespace) -> int:
    services, out = connect(args), Output(as_json=args.json)
    groups = groups_of(services, args.names)
    if args.dry_run:
        out.show_all(
            [
                {"group": group, "volumes": volumes, "dry_run": True}
                for group, volumes in groups.items()
            ],
            [
                Column("group", lambda one: one["group"]),
                Column("snapshot of", lambda one: listed(one["volumes"])),
            ],
        )
        return 0
    if not agreed(args, out, not_named(groups, args.names)):
        return DECLINED_EXIT_CODE
    hints = _hints(args, services)
    sessions = {group: uuid7() for group in groups}
    status = 0
    try:
        with progress_bars() as show_bar:
            ends = list(
                take_all(
                    services,
                    sessions,
                    full=args.full,
                    hints=hints,
                    show_bar=show_bar,
                    note=out.note,
                )
            )
    except KeyboardInterrupt:
        _note_interrupted(out, sessions)
        raise
    for session, end in zip(sessions.values(), ends, strict=True):
        status = _report(out, session, end) or status
    return status


def _hints(args: argparse.Namespace, services: Services) -> Hints | None:
    if args.hints is None and args.base is None:
        return None
    if args.hints is None or args.base is None or args.full or len(args.names) != 1:
        raise BadInputError(
            "--hints FILE and --base POINT go together, with one NAME and without --full: the "
            "file says what changed on that volume since that point"
        )
    return hints_of(services, args.names[0], args.hints, args.base)


def _report(out: Output, session: UUID, end: Session | BackcastError) -> int:
    """Print how a session ended; its exit status."""
    if isinstance(end, BackcastError):
        notes = getattr(end, "__notes__", [])  # see `take_all`
        more = {"session": str(session)} if notes else {}
        out.failure(end.code, str(end), "\n".join(notes), **more)
        return end.exit_code
    if end["state"] != "sealed":
        out.failure(end["code"], f"snapshot of {end['group']}: {end['code']}: {end['message']}")
        return error_class(end["code"]).exit_code
    for taken in _taken(end):
        out.show(taken, _sentence(taken))
        if warning := _WARNINGS.get(taken["consistency"]):
            out.note(f"warning: {taken['point']} is {taken['consistency']}: {warning}")
        if taken["tracking"] == "lost":
            out.note(
                f"{taken['point']}: tracking was lost: the node could not say what changed since "
                f"the snapshot before (its agent's state was emptied, another node or driver took "
                f"that one, or the file or device is another one), so everything was compared; "
                f"`backcast events tail` says which it was"
            )
        elif taken["compared_all"]:
            out.note(
                f"{taken['point']}: everything was compared and counted anew, and the node was not "
                f"asked what changed: because of --full, or because what the snapshot before needs "
                f"was found damaged or had expired"
            )
    return 0


def _taken(session: Session) -> Iterator[dict[str, Any]]:
    figures = ("logical", "read", "changed", "sent", "stored")
    for part in session["parts"]:
        yield {
            "snapshot": session["session"],
            "volume": part["volume"],
            "point": f"{part['volume']}@{session['sequence']}",
            **{f"{figure}_bytes": part[f"{figure}_bytes"] for figure in figures},
            "seconds": session["seconds"],
            "consistency": part["consistency"],
            "tracking": part["tracking"],
            "compared_all": _compared_all(session, part["tracking"]),
        }


def _compared_all(session: Session, tracking: str) -> bool:
    """Whether nobody knew what changed, although there is a snapshot before: all is "changed"."""
    return tracking == "lost" or (tracking == "none" and session["sequence"] > 1)


def _sentence(taken: Document) -> str:
    logical, read, changed, sent, stored = (
        human_bytes(taken[f"{figure}_bytes"])
        for figure in ("logical", "read", "changed", "sent", "stored")
    )
    what = f"all {changed} compared" if taken["compared_all"] else f"changed {changed}"
    return (
        f"{taken['point']}: {logical}, read {read}, {what}, sent {sent}, "
        f"stored {stored} in {taken['seconds']:.1f} s ({taken['consistency']})"
    )


def _note_interrupted(out: Output, sessions: Mapping[str, UUID]) -> None:
    for group, session in sessions.items():
        out.note(
            f"the snapshot of {group} goes on without this command, and is rejected if it makes "
            f"no progress; to end it: backcast session cancel {session}; once sealed: backcast "
            f"snapshot show {session}"
        )


def _list(args: argparse.Namespace) -> int:
    services = connect(args)
    if args.expired:
        return list_expired(args, services)
    points, columns = _points(services, args.name), []
    if args.holds:
        holds = holds_of(services)
        points = ({**one, "holds": held} for one in points if (held := holds.get(one["session"])))
        columns = [Column("held by", lambda one: ", ".join(h["owner"] for h in one["holds"]))]
    Output(as_json=args.json).show_all(
        points,
        [
            Column("point", lambda one: one["point"]),
            Column("sealed at", lambda one: human_time(one["sealed_at"])),
            Column("size", lambda one: human_bytes(one["size_bytes"]), right=True),
            Column("changed", _changed, right=True),
            Column("stored", lambda one: human_bytes(one["stored_bytes"]), right=True),
            Column("consistency", lambda one: one["consistency"]),
            Column("verified", _verified),
            Column("copies", _copies),
            *columns,
            Column("snapshot", lambda one: one["session"]),
            Column("note", lambda one: one["note"] or ""),
        ],
    )
    return 0


def _changed(point: Document) -> str:
    """What differs from the base. Where nobody knows, all was compared, and no figure says it."""
    is_known = point["tracking"] in ("exact", "candidates")
    return human_bytes(point["changed_bytes"]) if is_known else "all"


def _verified(point: Document) -> str:
    if point["damaged"]:
        return "DAMAGED"
    return point["verified_level"] or "-"


def _copies(point: Document) -> str:
    """How many stores have all of it, and whether that is enough."""
    count, wanted = point["copies"], point["copies_wanted"]
    return str(count) if count >= wanted else f"{count} of {wanted}"


def _points(services: Services, name: str | None) -> Iterator[Document]:
    """Every recovery point of every volume, page by page."""
    query: dict[str, object] = {"name": name}
    while True:
        page = get_page(services.restore, services.path("/snapshots"), query)
        for row in page["snapshots"]:
            yield {"point": f"{row['volume']}@{row['sequence']}", **row}
        if page["next"] is None:
            return
        query["before"] = page["next"]


def _show(args: argparse.Namespace) -> int:
    services, out = connect(args), Output(as_json=args.json)
    session = _session(args.point)
    if session:
        found = services.get(f"/snapshots/{session}")
    else:
        found = services.get(RecoveryPoint.parse(args.point, otherwise=LATEST).path)
        found["barrier"] = services.get(f"/snapshots/{found['session']}")["barrier"]
    out.show(found, lambda found: "\n".join(_lines(found)))
    return 0


def _lines(found: Document) -> Iterator[str]:
    for name, value in found.items():
        if name in ("volumes", "barrier"):
            for one in value:
                yield ""
                yield from _lines(one)
        else:
            yield f"{name:<14} {'-' if value is None else value}"


def _session(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
