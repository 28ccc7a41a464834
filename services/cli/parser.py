"""The parser of the command line: nouns and their verbs, from the modules named after them."""

import argparse

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
    volumes,
)

_DESCRIPTION = """\
Protects volumes and gives back any recovery point, written NAME@latest, NAME@12 (its number),
NAME@2026-11-22T10:00:00Z (the newest at that instant) or NAME@-15m (s, m, h, d ago)."""
_ENVIRONMENT = """\
environment: BACKCAST_URL and BACKCAST_TOKEN name the services (without them: those of `backcast dev
up`), BACKCAST_TENANT the tenant, BACKCAST_HOME the folder of the local servers."""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line. What it parses has ``run``, the function that does it."""
    parser = argparse.ArgumentParser(prog="backcast", description=_DESCRIPTION, epilog=_ENVIRONMENT)
    nouns = parser.add_subparsers(required=True, metavar="COMMAND")
    everywhere = argparse.ArgumentParser(add_help=False)
    everywhere.add_argument(
        "--json", action="store_true", help="one JSON object, or one per line, on standard output"
    )
    everywhere.add_argument(
        "--tenant", metavar="T", help="whose data (default: BACKCAST_TENANT, else default)"
    )
    dev.add_parser(nouns, [everywhere])
    nouns.choices["dev"].set_defaults(run=dev.run)
    for noun in (volumes, snapshots, restores, addresses, events, keys, gc, catalog, stores):
        noun.add_parser(nouns, everywhere)
    return parser
