"""``backcast stats``: how much room recovery points take."""

import argparse
from collections.abc import Sequence

from libs.sizes import human_bytes
from services.cli.connection import connect
from services.cli.output import Column, Document, Output

_SUMMED = ("points", "logical_bytes", "protected_bytes", "unique_bytes", "attributed_bytes")


def add_parser(
    nouns: "argparse._SubParsersAction[argparse.ArgumentParser]",
    everywhere: argparse.ArgumentParser,
) -> None:
    """Add ``stats``."""
    text = "show the room that each volume's recovery points take, and what they would take whole"
    stats = nouns.add_parser("stats", parents=[everywhere], help=text, description=text)
    stats.set_defaults(run=_stats)


def _stats(args: argparse.Namespace) -> int:
    services, out = connect(args), Output(as_json=args.json)
    rows = services.catalog.get(services.path("/usage"))
    total = _total(services.tenant, rows)
    out.show_all(
        [*rows, total],
        [
            Column("volume", lambda one: one["volume"] or f"(all of {services.tenant})"),
            Column("points", lambda one: one["points"], right=True),
            Column("size", lambda one: human_bytes(one["logical_bytes"]), right=True),
            Column("protected", lambda one: human_bytes(one["protected_bytes"]), right=True),
            Column("stored", lambda one: human_bytes(one["attributed_bytes"]), right=True),
            Column("its alone", lambda one: human_bytes(one["unique_bytes"]), right=True),
            Column("ratio", _ratio, right=True),
            Column("state", lambda one: "removed" if one["removed_at"] else ""),
        ],
    )
    return 0


def _total(tenant: str, rows: Sequence[Document]) -> Document:
    sums = {figure: sum(row[figure] for row in rows) for figure in _SUMMED}
    return {"volume": None, "group": None, "removed_at": None, "tenant": tenant, **sums}


def _ratio(one: Document) -> str:
    """How many bytes of recovery points are in one byte that is stored."""
    stored = one["attributed_bytes"]
    return f"{one['protected_bytes'] / stored:.1f}" if stored else "-"
