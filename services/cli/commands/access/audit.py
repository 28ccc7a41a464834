"""``backcast audit …``: who did what: list, export, verify."""

import argparse
import itertools
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from libs.access.acts import GENESIS, Act, AuditRecord, chained
from libs.errors import BadInputError, DamagedDataError
from services.cli.connection import Services, connect
from services.cli.output import Column, Document, Output, human_time
from services.cli.patience import get_page

_PAGE_COUNT = 1_000


def add_parser(nouns: Any, everywhere: argparse.ArgumentParser) -> None:
    """Add the noun and its verbs."""
    text = "who did what: list, export, verify"
    parser = nouns.add_parser("audit", parents=[everywhere], help=text, description=text)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    text = "list the newest records"
    lister = verbs.add_parser("list", parents=[everywhere], help=text, description=text)
    lister.add_argument(
        "--last", type=int, default=100, metavar="N", help="how many, at most 1000 (default: 100)"
    )
    lister.set_defaults(run=_list)
    text = "write records as JSON lines, to be kept where no administrator of the catalog can write"
    export = verbs.add_parser("export", parents=[everywhere], help=text, description=text)
    export.add_argument(
        "--after", type=int, default=0, metavar="NUMBER", help="only records above it"
    )
    export.set_defaults(run=_export)
    text = "verify the chain of records; with an export, also that it still says the same"
    verify = verbs.add_parser("verify", parents=[everywhere], help=text, description=text)
    verify.add_argument("path", nargs="?", metavar="EXPORT", help="file that `export` wrote")
    verify.set_defaults(run=_verify)


def _list(args: argparse.Namespace) -> int:
    if not 1 <= args.last <= _PAGE_COUNT:
        raise BadInputError(f"--last {args.last}: expected 1 to {_PAGE_COUNT}")
    page = connect(args).catalog.get("/v1/audit", {"limit": args.last})
    Output(as_json=args.json).show_all(
        page["records"],
        [
            Column("number", lambda one: one["number"], right=True),
            Column("at", lambda one: human_time(one["at"])),
            Column("token", lambda one: one["token"]),
            Column("address", lambda one: one["address"]),
            Column("status", lambda one: one["status"], right=True),
            Column("what", lambda one: f"{one['method']} {one['target']}"),
        ],
    )
    return 0


def _export(args: argparse.Namespace) -> int:
    out = Output(as_json=True)
    for record in _records(connect(args), args.after):
        out.show(record, "")
    return 0


def _verify(args: argparse.Namespace) -> int:
    kept = None if args.path is None else _read_export(Path(args.path))
    last, digest = 0, GENESIS
    for document in _records(connect(args), 0):
        record = _record_of(document, "the catalog")
        if record != chained(digest, last + 1, record.act):
            raise DamagedDataError(
                f"audit record {last + 1}: does not fit the one before it; somebody changed or "
                f"removed records from there on. Compare with an export (`audit verify EXPORT`)"
            )
        last, digest = record.number, record.digest
        if kept and kept.pop(last, record) != record:
            raise DamagedDataError(
                f"audit record {last}: is another one than in {args.path}; the catalog's log was "
                f"written anew, or the catalog went back in time"
            )
    if kept:
        raise DamagedDataError(
            f"audit record {min(kept)}: is in {args.path}, but the catalog's log ends at {last}"
        )
    document = {"records": last, "digest": digest.hex(), "export": args.path}
    Output(as_json=args.json).show(document, f"{last} records fit; the last one is {digest.hex()}")
    return 0


def _records(services: Services, after: int) -> Iterator[Document]:
    while True:
        query = {"after": after, "limit": _PAGE_COUNT}
        records = get_page(services.catalog, "/v1/audit", query)["records"]
        yield from records
        if len(records) < _PAGE_COUNT:
            return
        after = records[-1]["number"]


def _read_export(path: Path) -> dict[int, AuditRecord]:
    """The records of an export by their numbers, which fit one another."""
    try:
        with path.open(encoding="utf-8") as lines:
            records = list(_parsed(lines, path))
    except (OSError, UnicodeDecodeError) as err:
        raise BadInputError(f"export {path}: cannot be read: {err}") from err
    for before, record in itertools.pairwise(records):
        if record != chained(before.digest, before.number + 1, record.act):
            raise DamagedDataError(
                f"export {path}: record {record.number} does not fit the one before it"
            )
    return {record.number: record for record in records}


def _parsed(lines: Iterable[str], path: Path) -> Iterator[AuditRecord]:
    for number, line in enumerate(lines, start=1):
        try:
            yield _record_of(json.loads(line), f"{path}, line {number}")
        except ValueError:
            raise BadInputError(f"export {path}: line {number} is no JSON") from None


def _record_of(document: Document, where: str) -> AuditRecord:
    try:
        act = Act(
            at=datetime.fromisoformat(document["at"]),
            service=document["service"],
            token=document["token"],
            roles=tuple(document["roles"]),
            address=document["address"],
            tenant=document["tenant"],
            method=document["method"],
            route=document["route"],
            target=document["target"],
            status=document["status"],
        )
        return AuditRecord(document["number"], act, bytes.fromhex(document["digest"]))
    except (KeyError, TypeError, ValueError) as err:
        raise DamagedDataError(f"{where}: is no record of the audit log ({err})") from err
