"""``backcast keys``: which keys there are, and the sheet that saves the one above them all."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libs.errors import BadInputError, ConflictError, DamagedDataError, NotFoundError
from services.cli.connection import connect
from services.cli.output import Column, Document, Output, human_time

if TYPE_CHECKING:  # imported late below: it is needed for one command only
    from libs.keys.sheet import RecoverySheet

_LOSS = (
    "Losing the key-encryption key is losing the data: no one can restore it without the key. "
    "`backcast keys sheet` prints it for a safe place."
)
_NEW_SHEET = (
    "Print the new recovery sheet now (`backcast keys sheet`), and destroy the old one when the "
    "new one is in its place: it opens nothing any more. Then take PREVIOUS_KEK_FILE out of the "
    "settings of all services."
)
_POLL_SECONDS = 0.5


def add_parser(
    nouns: "argparse._SubParsersAction[argparse.ArgumentParser]",
    everywhere: argparse.ArgumentParser,
) -> None:
    """Add ``keys`` and its verbs."""
    keys = nouns.add_parser(
        "keys",
        parents=[everywhere],
        help=f"the keys of stored data. {_LOSS}",
        description=_LOSS,
    )
    verbs = keys.add_subparsers(required=True, metavar="COMMAND")
    text = "list the tenant's keys by their names; never their secrets"
    lister = verbs.add_parser("list", parents=[everywhere], help=text, description=text)
    lister.set_defaults(run=_list)
    text = "print the recovery sheet, which contains the key-encryption key: print it, hide it"
    sheet = verbs.add_parser("sheet", parents=[everywhere], help=text, description=text)
    sheet.add_argument(
        "--key-file", type=Path, metavar="FILE", help="key file (default: the local servers')"
    )
    sheet.add_argument("--endpoint", metavar="URL", help="of the object store, with --key-file")
    sheet.add_argument("--bucket", metavar="NAME", help="with the data, with --key-file")
    sheet.set_defaults(run=_sheet)
    _add_changes(verbs, everywhere)


def _add_changes(verbs: Any, everywhere: argparse.ArgumentParser) -> None:
    """Add the verbs that change keys."""
    text = (
        "wrap all data keys by the new key-encryption key, which every service has been given with "
        "the previous one; run it again after an interruption"
    )
    kek = verbs.add_parser("rotate-kek", parents=[everywhere], help=text, description=text)
    kek.set_defaults(run=_rotate_kek)
    text = (
        "seal what is written from now on under a new data key; what is stored stays under the old "
        "one, which stays in the bucket. Ids stay, so that nothing is stored twice"
    )
    data = verbs.add_parser("rotate-data", parents=[everywhere], help=text, description=text)
    data.add_argument("of", metavar="TENANT", nargs="?", help="whose (default: all tenants')")
    data.set_defaults(run=_rotate_data)


def _rotate_kek(args: argparse.Namespace) -> int:
    catalog, out = connect(args).catalog, Output(as_json=args.json)
    try:
        state = catalog.post("/v1/keys/kek")
        while state["running"]:
            time.sleep(_POLL_SECONDS)
            state = catalog.get("/v1/keys/kek")
    except KeyboardInterrupt:
        out.note(
            "the catalog service goes on with the change if it has begun; run the command again, "
            "which sees it through and says how it ended"
        )
        raise
    out.show(state, _rotated)
    if state["error"]:
        raise DamagedDataError(f"key-encryption key: not changed completely: {state['error']}")
    if state["left"]:
        raise ConflictError(
            f"key-encryption key: {state['left']} objects still need the previous one; is a "
            f"service without the new one still running? restart it with the new one, and run "
            f"the command again"
        )
    out.note(_NEW_SHEET)
    return 0


def _rotated(state: Document) -> str:
    return (
        f"{state['keys']} data keys are wrapped by the key-encryption key {state['fingerprint']}; "
        f"{state['wrapped']} objects written, {state['keys_deleted']} old ones and "
        f"{state['checkpoints_deleted']} objects of old checkpoints deleted"
    )


def _rotate_data(args: argparse.Namespace) -> int:
    out = Output(as_json=args.json)
    try:
        done = connect(args).catalog.post("/v1/keys/data", {"tenant": args.of})
    except KeyboardInterrupt:
        out.note(
            "the catalog service may have changed data keys; `backcast keys list` shows them. "
            "Running the command again makes further ones, which does no harm"
        )
        raise
    out.show_all(
        done,
        [
            Column("tenant", lambda one: one["tenant"]),
            Column("new key", lambda one: one["key_id"]),
            Column("before", lambda one: one["before"]),
        ],
    )
    out.note("The old data keys stay in the bucket: what they sealed is read with them.")
    return 0


def _list(args: argparse.Namespace) -> int:
    out = Output(as_json=args.json)
    out.show_all(
        connect(args).get("/keys"),
        [
            Column("key", lambda key: key["key_id"]),
            Column("domain", lambda key: key["domain"]),
            Column("in use", lambda key: "yes" if key["in_use"] else "no"),
            Column("created at", _created_at),
            Column("wrapped at", lambda key: human_time(key["wrapped_at"])),
            Column("wrapped by", lambda key: key["kek_fingerprint"]),
        ],
    )
    out.note(_LOSS)
    return 0


def _created_at(key: Document) -> str:
    return human_time(key["created_at"]) if key["created_at"] else "unknown"


def _sheet(args: argparse.Namespace) -> int:
    from libs.keys.sheet import export_sheet  # noqa: PLC0415 -- see above

    sheet = _local_sheet() if args.key_file is None else _sheet_of(args)
    text = export_sheet(sheet)
    document = {
        "fingerprint": sheet.kek.fingerprint.hex(),
        "endpoint": sheet.endpoint,
        "bucket": sheet.bucket,
        "sheet": text,
    }
    Output(as_json=args.json).show(document, lambda _: text)
    return 0


def _sheet_of(args: argparse.Namespace) -> "RecoverySheet":
    if not (args.endpoint and args.bucket):
        raise BadInputError(
            f"key file {args.key_file}: give --endpoint and --bucket too; the key alone does not "
            f"find the data"
        )
    return _read_sheet(args.key_file, args.endpoint, args.bucket)


def _local_sheet() -> "RecoverySheet":
    from deploy.local.cluster import LocalCluster  # noqa: PLC0415 -- see above
    from deploy.local.home import BackcastHome  # noqa: PLC0415 -- see above

    home = BackcastHome.from_environment()
    if not home.exists:
        raise NotFoundError(
            f"nothing was started in {home.folder}: give --key-file, --endpoint and --bucket"
        )
    addresses = LocalCluster(home).environment()
    return _read_sheet(
        home.secret_file("kek"),
        addresses["BACKCAST_S3_ENDPOINT"],
        addresses["BACKCAST_S3_BUCKET"],
    )


def _read_sheet(key_file: Path, endpoint: str, bucket: str) -> "RecoverySheet":
    from libs.keys.kek import KeyEncryptionKey  # noqa: PLC0415 -- see above
    from libs.keys.sheet import RecoverySheet  # noqa: PLC0415 -- see above

    try:
        text = key_file.read_text()
    except (OSError, UnicodeDecodeError) as err:
        raise BadInputError(f"key file {key_file}: cannot be read: {err}") from err
    return RecoverySheet(KeyEncryptionKey.parse(text), endpoint, bucket)
