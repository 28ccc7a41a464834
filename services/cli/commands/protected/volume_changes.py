"""What becomes of a volume: ``volume rename|move|remove|regroup|pause|resume``."""

import argparse
from urllib.parse import quote

from libs.errors import BadInputError
from libs.sizes import human_bytes
from services.cli.commands.effects import (
    DECLINED_EXIT_CODE,
    add_effect_options,
    agreed,
    listed,
    volumes_by_group,
)
from services.cli.commands.protected.paths import absolute_path
from services.cli.connection import Services, connect
from services.cli.output import Document, Output

_REASON_LENGTH_MAX = 2000


def add_change_verbs(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]",
    everywhere: argparse.ArgumentParser,
) -> None:
    """Add the verbs to ``volume``."""
    text = "give a volume or group another name; its history goes by the new one, too"
    rename = verbs.add_parser("rename", parents=[everywhere], help=text, description=text)
    rename.add_argument("name", metavar="NAME", help="volume (also a removed one) or group")
    rename.add_argument("new_name", metavar="NEW", help="what it is called from now on")
    rename.set_defaults(run=_rename)
    text = "read a volume from another place; its next snapshot compares everything"
    move = verbs.add_parser("move", parents=[everywhere], help=text, description=text)
    move.add_argument("name", metavar="NAME", help="volume")
    move.add_argument("path", metavar="PATH", help="file or block device on its node")
    move.add_argument("--node", help="node that the path is on (default: as before)")
    freeze = move.add_mutually_exclusive_group()
    freeze.add_argument(
        "--freeze", metavar="MOUNTPOINT", help="freeze the file system that is mounted there"
    )
    freeze.add_argument("--no-freeze", action="store_true", help="freeze nothing any more")
    move.add_argument("--again", action="store_true", help="although another volume is there")
    move.set_defaults(run=_move)
    text = (
        "protect a volume no more; its recovery points expire as those of its group do, whose last "
        "good one alone stays"
    )
    remove = verbs.add_parser("remove", parents=[everywhere], help=text, description=text)
    remove.add_argument("name", metavar="NAME", help="volume")
    add_effect_options(remove)
    remove.set_defaults(run=_remove)
    text = (
        "put a volume into another group, where its history begins anew; one that keeps fewer "
        "recovery points needs the role delete"
    )
    regroup = verbs.add_parser("regroup", parents=[everywhere], help=text, description=text)
    regroup.add_argument("name", metavar="NAME", help="volume")
    regroup.add_argument("group", metavar="GROUP", help="the group; made if there is none")
    regroup.add_argument(
        "--keep-as", metavar="OLD", help="name of its history up to now (default: NAME-1, NAME-2 …)"
    )
    add_effect_options(regroup)
    regroup.set_defaults(run=_regroup)
    _add_pause_verbs(verbs, everywhere)


def _add_pause_verbs(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]",
    everywhere: argparse.ArgumentParser,
) -> None:
    text = "let a volume's group take no snapshots, and its retention give up none"
    pause = verbs.add_parser("pause", parents=[everywhere], help=text, description=text)
    pause.add_argument("name", metavar="NAME", help="volume or group")
    pause.add_argument("--reason", metavar="TEXT", required=True, help="why, for people")
    add_effect_options(pause)
    pause.set_defaults(run=_pause)
    text = "end a pause"
    resume = verbs.add_parser("resume", parents=[everywhere], help=text, description=text)
    resume.add_argument("name", metavar="NAME", help="volume or group")
    resume.set_defaults(run=_resume)


def _path(services: Services, name: str, verb: str) -> str:
    return services.path(f"/volumes/{quote(name)}/{verb}")


def _rename(args: argparse.Namespace) -> int:
    services = connect(args)
    body = {"name": args.new_name}
    renamed = services.coordinator.post(_path(services, args.name, "rename"), body)
    what = "volume" if renamed["volume"] else "group"
    Output(as_json=args.json).show(
        renamed, f"{what} {args.name} is {args.new_name} now, with its recovery points"
    )
    return 0


def _move(args: argparse.Namespace) -> int:
    services = connect(args)
    body = {"path": absolute_path(args.path), "again": args.again, "no_freeze": args.no_freeze}
    body |= {key: value for key in ("node", "freeze") if (value := getattr(args, key))}
    moved = services.coordinator.post(_path(services, args.name, "move"), body)
    Output(as_json=args.json).show(
        moved,
        f"{moved['name']}: {moved['path']} on node {moved['node']}, "
        f"{human_bytes(moved['size_bytes'])}; its next snapshot compares everything",
    )
    return 0


def _remove(args: argparse.Namespace) -> int:
    services, out = connect(args), Output(as_json=args.json)
    volume = services.get(f"/volumes/{quote(args.name)}")
    others = _others(services, args.name, volume["group"])
    effects = [
        f"{args.name} gets no more recovery points; {_history(volume, args.name, others)}",
        *_leaving(volume["group"], [] if volume["removed_at"] else others),
    ]
    if args.dry_run:
        for effect in effects:
            out.note(effect)
        document = {"name": args.name, "points": volume["points"], "dry_run": True}
        out.show(document, f"{args.name}: would be removed")
        return 0
    if not agreed(args, out, effects):
        return DECLINED_EXIT_CODE
    removed = services.coordinator.post(_path(services, args.name, "remove"))
    back = f"`backcast volume add {args.name} {volume['path']}` takes it back"
    out.show(removed, f"{args.name}: removed; {back}")
    return 0


def _regroup(args: argparse.Namespace) -> int:
    services, out = connect(args), Output(as_json=args.json)
    volume = services.get(f"/volumes/{quote(args.name)}")
    effects = []
    if volume["group"] != args.group:
        kept_as = args.keep_as or f"{args.name}-1, or the next name that is free"
        others = _others(services, args.name, volume["group"])
        effects = [
            f"{args.name} begins anew in group {args.group}: its next snapshot reads everything",
            f"the rule of group {args.group} says how long its new recovery points stay",
            f"of its recovery points up to now, {_history(volume, f'{kept_as},', others)}",
            *_leaving(volume["group"], others),
        ]
    if args.dry_run:
        for effect in effects:
            out.note(effect)
        document = {"name": args.name, "group": args.group, "dry_run": True}
        out.show(document, f"{args.name}: would be put into group {args.group}")
        return 0
    if not agreed(args, out, effects):
        return DECLINED_EXIT_CODE
    body = {"group": args.group, "keep_as": args.keep_as}
    done = services.coordinator.post(_path(services, args.name, "regroup"), body)
    kept = f"; its history is {done['kept_as']}" if done["kept_as"] else ""
    out.show(done, f"{args.name}: in group {done['group']}{kept}")
    return 0


def _pause(args: argparse.Namespace) -> int:
    services, out = connect(args), Output(as_json=args.json)
    if not 1 <= len(args.reason) <= _REASON_LENGTH_MAX:
        raise BadInputError(
            f"--reason: {len(args.reason)} characters, expected 1 to {_REASON_LENGTH_MAX}"
        )
    effects = [
        f"{args.name} is in group {group}: the pause is for {listed(volumes)}"
        for group, volumes in volumes_by_group(services, args.name).items()
        if args.name != group and len(volumes) > 1
    ]
    if args.dry_run:
        for effect in effects:
            out.note(effect)
        out.show({"name": args.name, "dry_run": True}, f"{args.name}: would be paused")
        return 0
    if not agreed(args, out, effects):
        return DECLINED_EXIT_CODE
    path = _path(services, args.name, "pause")
    paused = services.coordinator.post(path, {"reason": args.reason})
    out.show(
        paused,
        f"{paused['group']}: paused; it takes no snapshots, and retention gives up none of its "
        f"recovery points, until `backcast volume resume {paused['group']}`",
    )
    return 0


def _resume(args: argparse.Namespace) -> int:
    services = connect(args)
    resumed = services.coordinator.post(_path(services, args.name, "resume"))
    Output(as_json=args.json).show(resumed, f"{resumed['group']}: takes snapshots again")
    return 0


def _history(volume: Document, kept_as: str, others: list[str]) -> str:
    """What becomes of the recovery points of a volume that leaves its group."""
    if not volume["points"]:
        return "there are none"
    stay = f"its {volume['points']} go by the name {kept_as}"
    if not others:
        return (
            f"{stay} and expire as the group's rule says; nobody can expire the last good one, and "
            f"without newer ones as many stay as the rule keeps at any age"
        )
    return (
        f"{stay} and expire with the snapshots of group {volume['group']}, whose rule counts newer "
        f"ones that are without it: in the end, the last one, too (`backcast snapshot hold` keeps "
        f"one)"
    )


def _others(services: Services, name: str, group: str) -> list[str]:
    """The protected volumes of a group besides one."""
    return [one for one in volumes_by_group(services, group).get(group, []) if one != name]


def _leaving(group: str, others: list[str]) -> list[str]:
    """What becomes of the group that a volume leaves."""
    if not others:
        return []
    return [f"from now on, the snapshots of group {group} are of {listed(others)} alone"]
