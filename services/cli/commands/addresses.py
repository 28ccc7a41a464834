"""``backcast translate`` and ``backcast diff``: where bytes lie, and which ones differ."""

import argparse
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from libs.errors import BadInputError
from libs.points import RecoveryPoint
from libs.sizes import human_bytes
from services.cli.connection import Services, connect
from services.cli.output import Column, Document, Output
from services.cli.patience import get_page


def add_parser(
    nouns: "argparse._SubParsersAction[argparse.ArgumentParser]",
    everywhere: argparse.ArgumentParser,
) -> None:
    """Add ``translate`` and ``diff``."""
    text = "translate an address: from a byte of a volume down to the object store, or back"
    translate = nouns.add_parser("translate", parents=[everywhere], help=text, description=text)
    translate.add_argument("point", metavar="NAME@POINT", help="in which recovery point")
    ways = translate.add_mutually_exclusive_group(required=True)
    ways.add_argument(
        "offset", nargs="?", metavar="OFFSET", help="byte of the volume, decimal or 0x…"
    )
    ways.add_argument(
        "--storage",
        metavar="GENERATION:FRAME:POSITION",
        help="storage address: which bytes of the volume does it hold?",
    )
    translate.set_defaults(run=_translate)
    text = "list the extents of a volume that differ between two recovery points"
    diff = nouns.add_parser("diff", parents=[everywhere], help=text, description=text)
    diff.add_argument("older", metavar="NAME@A", help="one point")
    diff.add_argument("newer", metavar="NAME@B", help="another point of the same volume")
    diff.set_defaults(run=_diff)


def _translate(args: argparse.Namespace) -> int:
    services, out = connect(args), Output(as_json=args.json)
    point = RecoveryPoint.parse(args.point)
    if args.storage is None:
        found = services.get(f"{point.path}/translate", {"offset": _offset(args.offset)})
        out.show(found, _downwards)
    else:
        found = _find_addresses(services, point, args.storage)
        out.show(found, lambda found: _upwards(found, point))
    return 0


def _downwards(found: Document) -> str:
    source, logical, storage = found["source"], found["logical"], found["storage"]
    lines = [
        f"source   byte {source['offset_bytes']} of {source['path']} on node {source['node']}",
        f"logical  byte {logical['offset_bytes']} of {logical['volume']}@{found['sequence']}",
        f"chunk    {logical['chunk_index']}: {found['chunk']}",
    ]
    if storage is None:
        return "\n".join([*lines, "storage  none: zeros are stored nowhere"])
    first = storage["frame_offset_bytes"]
    copies = " and ".join(storage["copies"])
    last = first + storage["frame_size_bytes"] - 1
    return "\n".join(
        [
            *lines,
            f"storage  {storage['generation']}:{storage['frame']}:{storage['position']}",
            f"object   {storage['object_key']}, its frame is bytes {first}-{last}, at {copies}",
        ]
    )


def _find_addresses(services: Services, point: RecoveryPoint, storage: str) -> dict[str, Any]:
    """What of the volume lies at a storage address: all pages in one answer."""
    query = _storage_address(storage)
    path = services.path(f"{point.path}/translate")
    found: dict[str, Any] = get_page(services.restore, path, query)
    while (first_chunk := found.pop("next_first_chunk")) is not None:
        query["first_chunk"] = first_chunk
        page = get_page(services.restore, path, query)
        found |= page | {"addresses": found["addresses"] + page["addresses"]}
    return found


def _upwards(found: Document, point: RecoveryPoint) -> str:
    lines = [
        f"logical  byte {run['offset_bytes']} of {point}, in chunk {run['chunk_index']}"
        + (f", and in the {run['chunk_count'] - 1} after it" if run["chunk_count"] > 1 else "")
        for run in found["addresses"]
    ]
    nowhere = f"logical  no byte of {point}"
    return "\n".join([f"{found['kind']:<8} {found['id']}", *(lines or [nowhere])])


def _diff(args: argparse.Namespace) -> int:
    services, out = connect(args), Output(as_json=args.json)
    older, newer = RecoveryPoint.parse(args.older), RecoveryPoint.parse(args.newer)
    if older.name != newer.name:
        raise BadInputError(
            f"diff {older} {newer}: expected two points of one volume; its history is one line"
        )
    out.show_all(
        _extents(services, older, newer),
        [
            Column("offset", lambda extent: extent["offset_bytes"], right=True),
            Column("bytes", lambda extent: extent["length_bytes"], right=True),
            Column("size", lambda extent: human_bytes(extent["length_bytes"]), right=True),
        ],
    )
    return 0


def _extents(services: Services, older: RecoveryPoint, newer: RecoveryPoint) -> Iterator[Any]:
    query: dict[str, object] = {"from": older.moment, "to": newer.moment}
    path = services.path(f"/volumes/{quote(older.name)}/diff")
    while True:
        page = get_page(services.restore, path, query)
        yield from page["extents"]
        if page["next"] is None:
            return
        query["start"] = page["next"]


def _offset(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise BadInputError(
            f"offset {text!r}: expected a number of bytes, such as 1048576 or 0x100000"
        ) from None


def _storage_address(text: str) -> dict[str, object]:
    generation, _, rest = text.partition(":")
    frame, _, position = rest.partition(":")
    if not (frame.isdecimal() and position.isdecimal()):
        raise BadInputError(
            f"storage address {text!r}: expected GENERATION:FRAME:POSITION, as `backcast "
            f"translate` prints it"
        )
    return {"generation": generation, "frame": int(frame), "position": int(position)}
