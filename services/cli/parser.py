"""The parser of the command line: nouns and their verbs, from the modules named after them."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from libs.printable import printable
from libs.version import VERSION
from services.cli import completion
from services.cli.commands import (
    addresses,
    catalog,
    dev,
    events,
    gc,
    keys,
    restores,
    snapshots,
    stores,
)
from services.cli.commands.access import audit, tokens
from services.cli.commands.health import stats, status
from services.cli.commands.nodes import verbs as nodes
from services.cli.commands.protected import sessions, tenants, vms, volumes
from services.cli.streams import write_line

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

_DESCRIPTION = """\
Protects volumes and gives back any recovery point, written NAME@latest, NAME@12 (its number),
NAME@2026-11-22T10:00:00Z (the newest at that instant) or NAME@-15m (s, m, h, d ago)."""
_ENVIRONMENT = """\
environment: BACKCAST_URL and BACKCAST_TOKEN name the services (without them: those of `backcast dev
up`), BACKCAST_TENANT the tenant, BACKCAST_CA_FILE the authorities that sign them (without it: the
system's), BACKCAST_HOME the folder of the local servers."""


#: In the order of the help.
_NOUNS = (
    status,
    stats,
    volumes,
    vms,
    sessions,
    snapshots,
    restores,
    addresses,
    events,
    keys,
    gc,
    catalog,
    stores,
    nodes,
    tenants,
    tokens,
    audit,
    completion,
)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line. What it parses has ``run``, the function that does it."""
    parser: argparse.ArgumentParser = _Parser(
        prog="backcast", description=_DESCRIPTION, epilog=_ENVIRONMENT, parents=[_everywhere()]
    )
    parser.set_defaults(json=False, tenant=None)
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="print the version of this command, and end"
    )
    nouns = parser.add_subparsers(required=True, metavar="COMMAND")
    everywhere = _everywhere()
    dev.add_parser(nouns, [everywhere])
    nouns.choices["dev"].set_defaults(run=dev.run)
    for noun in _NOUNS:
        noun.add_parser(nouns, everywhere)
    return parser


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with arguments in printable characters, and notices where help is lost."""

    def print_help(self, file: "SupportsWrite[str] | None" = None) -> None:
        """As argparse's, which takes no notice of an error."""
        if file is None:
            write_line(self.format_help().rstrip())
        else:
            super().print_help(file)

    def error(self, message: str) -> NoReturn:
        """As argparse's."""
        super().error(printable(message))


class _Version(argparse.Action):
    """Prints the version, and notices where it is lost."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """As argparse calls it."""
        write_line(f"{parser.prog} {VERSION}")
        parser.exit()


def _everywhere() -> argparse.ArgumentParser:
    """The options that stand at any place: before the noun, before the verb, or after it.

    Where they are not given they set nothing, so that a later place does not undo an earlier one.
    """
    everywhere = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    everywhere.add_argument(
        "--json",
        action="store_true",
        default=argparse.SUPPRESS,
        help="one JSON object, or one per line, on standard output",
    )
    everywhere.add_argument(
        "--tenant", metavar="T", help="whose data (default: BACKCAST_TENANT, else default)"
    )
    return everywhere
