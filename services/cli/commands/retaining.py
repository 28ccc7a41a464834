"""How long recovery points stay: ``snapshot expire``, ``snapshot hold``, ``volume retain``."""

import argparse
from typing import Any
from urllib.parse import quote
from uuid import UUID

from libs.errors import BackcastError, BadInputError
from libs.points import RecoveryPoint
from libs.sizes import human_bytes
from services.cli.commands.effects import (
    DECLINED_EXIT_CODE,
    add_effect_options,
    agreed,
    listed,
    of_others,
    snapshot_at,
    volumes_by_group,
)
from services.cli.connection import Services, connect
from services.cli.output import Column, Document, Output, human_time
from services.cli.times import UNIT_SECONDS, seconds_of

#: Bounds of the service (`services.catalog.deletion.expiry_endpoints`).
_LAST_MAX = 2**31 - 1
_REASON_LENGTH_MAX = 2000
_OWNER_LENGTH_MAX = 63
_AGE_SECONDS_MAX = 2**40
#: How many points are named.
_SHOWN_MAX = 10


def add_snapshot_verbs(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]",
    everywhere: argparse.ArgumentParser,
) -> None:
    """Add ``expire``, ``hold`` and ``note`` to ``snapshot``."""
    text = "give up recovery points for good; the last good one of a group stays"
    expire = verbs.add_parser("expire", parents=[everywhere], help=text, description=text)
    expire.add_argument(
        "points",
        nargs="+",
        metavar="NAME@POINT|SNAPSHOT",
        help="which; its whole group's snapshot is given up",
    )
    add_effect_options(expire)
    expire.set_defaults(run=_expire)
    text = "forbid a recovery point to expire, or release it; holds of others stand"
    hold = verbs.add_parser("hold", parents=[everywhere], help=text, description=text)
    hold.add_argument(
        "point", metavar="NAME@POINT|SNAPSHOT", help="which; its whole group's snapshot is held"
    )
    what = hold.add_mutually_exclusive_group(required=True)
    what.add_argument("--reason", metavar="TEXT", help="why it must stay, for people")
    what.add_argument("--release", action="store_true", help="give up the hold")
    hold.add_argument("--owner", help="whose hold it is (default: the name of the token)")
    add_effect_options(hold)
    hold.set_defaults(run=_hold)
    text = "write down what is to be remembered about a recovery point; it is shown, no more"
    note = verbs.add_parser("note", parents=[everywhere], help=text, description=text)
    note.add_argument(
        "point", metavar="NAME@POINT|SNAPSHOT", help="which; the note is its whole snapshot's"
    )
    said = note.add_mutually_exclusive_group(required=True)
    said.add_argument("text", nargs="?", metavar="TEXT", help="the note, in place of another one")
    said.add_argument("--clear", action="store_true", help="no note any more")
    note.set_defaults(run=_note)


def add_volume_verbs(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]",
    everywhere: argparse.ArgumentParser,
) -> None:
    """Add ``retain`` to ``volume``."""
    text = "say which recovery points of a volume's group stay; without options, show it"
    retain = verbs.add_parser("retain", parents=[everywhere], help=text, description=text)
    retain.add_argument("name", metavar="NAME", help="volume or group")
    retain.add_argument("--last", type=int, metavar="N", help="the newest N good ones, at any age")
    retain.add_argument(
        "--for", dest="duration", metavar="AGE", help="all that are younger, such as 30d (s, m, h)"
    )
    retain.add_argument(
        "--copies", type=int, choices=(1, 2), help="stores that should have each one whole"
    )
    retain.add_argument("--forever", action="store_true", help="all: nothing expires by itself")
    add_effect_options(retain)
    retain.set_defaults(run=_retain)


def holds_of(services: Services) -> dict[str, list[Document]]:
    """The holds on each snapshot that somebody holds, by its id."""
    holds: dict[str, list[Document]] = {}
    for hold in services.catalog.get(services.path("/holds")):
        holds.setdefault(hold["session"], []).append(hold)
    return holds


def list_expired(args: argparse.Namespace, services: Services) -> int:
    """Show the snapshots that were given up, the last one first."""
    Output(as_json=args.json).show_all(
        services.catalog.get(services.path("/expired"), {"name": args.name}),
        [
            Column("point", lambda one: f"{one['group']}@{one['sequence']}"),
            Column("sealed at", lambda one: human_time(one["sealed_at"])),
            Column("expired at", lambda one: _time(one["expired_at"])),
            Column("snapshot", lambda one: one["session"]),
        ],
    )
    return 0


def _time(instant: str | None) -> str:
    return human_time(instant) if instant else "unknown"


def _expire(args: argparse.Namespace) -> int:
    services, out, status = connect(args), Output(as_json=args.json), 0
    found = {
        point: snapshot_at(services, _session(services, point))
        for point in dict.fromkeys(args.points)
    }
    if not args.dry_run and not agreed(args, out, [_given_up(*one) for one in found.items()]):
        return DECLINED_EXIT_CODE
    for point, snapshot in found.items():
        path = services.path(f"/snapshots/{snapshot['session']}/expire")
        try:
            answer = services.catalog.post(f"{path}?dry_run=true" if args.dry_run else path)
        except BackcastError as err:  # one that stays keeps no other from being given up
            out.failure(err.code, str(err))
            status = err.exit_code
        else:
            document = {"point": point, **answer, "volumes": snapshot["volumes"]}
            document["dry_run"] = args.dry_run
            freed = _freed(services, snapshot["session"]) if args.dry_run else {}
            out.show({**document, **freed}, f"{point}: {_outcome(freed)}")
    return status


def _freed(services: Services, session: str) -> Document:
    """What the expiry of a snapshot would free, if it were the only one."""
    freed: Document = services.catalog.get(services.path(f"/snapshots/{session}/freed"))
    return {"freed_packs": freed["packs"], "freed_bytes": freed["freed_bytes"]}


def _outcome(freed: Document) -> str:
    if not freed:
        return "given up"
    return (
        f"would be given up; by itself it frees {human_bytes(freed['freed_bytes'])} in "
        f"{freed['freed_packs']} packs"
    )


def _given_up(point: str, snapshot: Document) -> str:
    text = of_others(point, snapshot)
    return f"{text}: all of it is given up for good" if text else f"{point} is given up for good"


def _hold(args: argparse.Namespace) -> int:
    services, out = connect(args), Output(as_json=args.json)
    _check_text("--reason", args.reason, _REASON_LENGTH_MAX)
    _check_text("--owner", args.owner, _OWNER_LENGTH_MAX)
    snapshot = snapshot_at(services, _session(services, args.point))
    others = of_others(args.point, snapshot)
    what = "released" if args.release else "held"
    if args.dry_run:
        document = {"point": args.point, **snapshot, "held": not args.release, "dry_run": True}
        out.show(document, f"{others or args.point}: would be {what}")
        return 0
    if not agreed(args, out, [f"{others}: all of it is {what}"] if others else []):
        return DECLINED_EXIT_CODE
    path = services.path(f"/snapshots/{snapshot['session']}")
    if args.release:
        services.catalog.post(f"{path}/release", {"owner": args.owner})
        out.show({"point": args.point, "held": False}, f"{args.point}: released")
        return 0
    hold = services.catalog.post(f"{path}/hold", {"reason": args.reason, "owner": args.owner})
    out.show({"point": args.point, "held": True, **hold}, f"{args.point}: held by {hold['owner']}")
    return 0


def _note(args: argparse.Namespace) -> int:
    services = connect(args)
    _check_text("TEXT", args.text, _REASON_LENGTH_MAX)
    session = _session(services, args.point)
    services.catalog.post(services.path(f"/snapshots/{session}/note"), {"note": args.text})
    document = {"point": args.point, "session": session, "note": args.text}
    Output(as_json=args.json).show(
        document, f"{args.point}: {'noted' if args.text else 'has no note any more'}"
    )
    return 0


def _retain(args: argparse.Namespace) -> int:
    services, out = connect(args), Output(as_json=args.json)
    path = services.path(f"/volumes/{quote(args.name)}/retention")
    if args.last is not None and not 1 <= args.last <= _LAST_MAX:
        raise BadInputError(
            f"--last {args.last}: expected 1 to {_LAST_MAX}; the newest good one stays anyhow"
        )
    if args.forever and (args.last is not None or args.duration):
        raise BadInputError("--forever: keeps everything, so it goes with neither --last nor --for")
    copies = {} if args.copies is None else {"copies": args.copies}
    if args.forever or args.last is not None or args.duration:
        seconds = _seconds(args.duration) if args.duration else None
        body = {"keep_last": args.last, "keep_for_seconds": seconds, **copies}
    else:
        if args.dry_run and not copies:
            raise BadInputError("--dry-run: says what a rule would do; give one")
        if not copies:
            kept = services.catalog.get(path)
            out.show({"name": args.name, **kept}, f"{args.name}: {_rule(kept)}")
            return 0
        body = copies
    if args.dry_run:
        kept = services.catalog.post(f"{path}?dry_run=true", body)
        for effect in _effects(services, args.name, kept):
            out.note(effect)
        document = {"name": args.name, **kept, "dry_run": True}
        out.show(document, f"{args.name}: would be set: {_rule(kept)}")
        return 0
    if not agreed(
        args,
        out,
        _effects(services, args.name, services.catalog.post(f"{path}?dry_run=true", body)),
    ):
        return DECLINED_EXIT_CODE
    kept = services.catalog.post(path, body)
    out.show({"name": args.name, **kept}, f"{args.name}: {_rule(kept)}")
    return 0


def _effects(services: Services, name: str, planned: Document) -> list[str]:
    """What a rule would do beyond what was named."""
    effects = []
    for group, volumes in volumes_by_group(services, name).items():
        if name != group and len(volumes) > 1:
            effects.append(f"{name} is in group {group}: the rule is for {listed(volumes)}")
    expiring = planned["expires"]
    if expiring:
        points = listed(f"@{sequence}" for sequence in expiring[:_SHOWN_MAX])
        more = f" and {len(expiring) - _SHOWN_MAX} more" if len(expiring) > _SHOWN_MAX else ""
        effects.append(
            f"retention gives up {len(expiring)} of its recovery points soon, unless somebody "
            f"holds or reads them: {points}{more}"
        )
    return effects


def _check_text(option: str, text: str | None, length_max: int) -> None:
    """Refuse a text that the service would.

    Raises:
        BadInputError: it is empty or too long.
    """
    if text is not None and not 1 <= len(text) <= length_max:
        raise BadInputError(f"{option}: {len(text)} characters, expected 1 to {length_max}")


def _rule(kept: dict[str, Any]) -> str:
    where = "" if kept["copies"] == 1 else f"; each is to be whole at {kept['copies']} stores"
    if kept["keep_last"] is None:
        return f"every recovery point stays{where}"
    rule = f"the newest {kept['keep_last']} good recovery points stay"
    seconds = kept["keep_for_seconds"]
    return f"{rule}, and all up to {_age(seconds)} old{where}" if seconds else f"{rule}{where}"


def _age(seconds: int) -> str:
    for unit in "dhms":
        if seconds % UNIT_SECONDS[unit] == 0:
            return f"{seconds // UNIT_SECONDS[unit]}{unit}"
    raise AssertionError("every number of seconds is one")


def _seconds(text: str) -> int:
    seconds = seconds_of("--for", text)
    if seconds > _AGE_SECONDS_MAX:
        raise BadInputError(f"--for {text!r}: longer than anything lasts; use --forever")
    return seconds


def _session(services: Services, text: str) -> str:
    """The id of the snapshot that a point means."""
    try:
        return str(UUID(text))
    except ValueError:
        return str(services.get(RecoveryPoint.parse(text).path)["session"])
