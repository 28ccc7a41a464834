"""``backcast keys``: which keys there are, and the sheet that saves the one above them all."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from libs.errors import BadInputError, NotFoundError
from services.cli.connection import connect
from services.cli.output import Column, Output, human_time

if TYPE_CHECKING:  # imported late below: it is needed for one command only
    from libs.keys.sheet import RecoverySheet

_LOSS = (
    "Losing the key-encryption key is losing the data: no one can restore it without the key. "
    "`backcast keys sheet` prints it for a safe place."
)


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


def _list(args: argparse.Namespace) -> int:
    out = Output(as_json=args.json)
    out.show_all(
        connect(args).get("/keys"),
        [
            Column("key", lambda key: key["key_id"]),
            Column("domain", lambda key: key["domain"]),
            Column("created at", lambda key: human_time(key["created_at"])),
            Column("wrapped by", lambda key: key["kek_fingerprint"]),
        ],
    )
    out.note(_LOSS)
    return 0


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
