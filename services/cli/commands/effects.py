"""What a command would do beyond what was named: told before it happens, and asked on a terminal.

A snapshot is of a group, and so are holds, retention and expiry. Whoever names a volume should not
learn afterwards what became of the others.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence

from services.cli.connection import Services
from services.cli.output import Document, Output
from services.cli.streams import tell_line

#: What a shell reports for Ctrl-C; a question that is answered with no ends like it.
DECLINED_EXIT_CODE = 130


def add_effect_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--dry-run`` and ``--yes`` to a command that `agreed` asks about."""
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--yes", action="store_true", help="do not ask, on a terminal either")


def agreed(args: argparse.Namespace, out: Output, effects: Sequence[str]) -> bool:
    """Tell people the effects that were not named; whether to go on.

    Asked is on a terminal alone: where nobody is there to answer, the command was meant.
    """
    for effect in effects:
        out.note(effect)
    if not effects or args.yes or args.json:
        return True
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    tell_line("Go on? [y/N]")
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    out.note("nothing was done")
    return False


def volumes_by_group(services: Services, name: str | None = None) -> dict[str, list[str]]:
    """The tenant's groups, and the names of their volumes.

    Args:
        services: where to ask.
        name: only the group of this name, or of the volume of this name; None: all.

    Raises:
        NotFoundError: the tenant has no volume or group of this name.
    """
    groups: dict[str, list[str]] = {}
    for volume in services.get("/volumes", {"name": name}):
        groups.setdefault(volume["group"], []).append(volume["name"])
    return groups


def snapshot_at(services: Services, session: str) -> Document:
    """What a snapshot's id means: ``session``, ``group``, ``sequence`` and names of ``volumes``."""
    found = services.get(f"/snapshots/{session}")
    volumes = [volume["volume"] for volume in found["volumes"]]
    return {
        "session": found["session"],
        "group": found["group"],
        "sequence": found["sequence"],
        "volumes": volumes,
    }


def of_others(point: str, snapshot: Document) -> str | None:
    """Says that a point is of a snapshot of more volumes than one; None if it is not."""
    name, _, _ = point.partition("@")
    volumes = snapshot["volumes"]
    if len(volumes) == 1 or name == snapshot["group"]:
        return None
    return (
        f"{point} is of snapshot {snapshot['sequence']} of group {snapshot['group']}, "
        f"which is of {listed(volumes)}"
    )


def listed(names: Iterable[str]) -> str:
    """Names as a sentence has them: ``a``, ``a and b``, ``a, b and c``."""
    *before, last = names
    return f"{', '.join(before)} and {last}" if before else last
