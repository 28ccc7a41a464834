"""``backcast restore``: gives a recovery point back as a file or onto a device."""

import argparse
from pathlib import Path

from libs.points import RecoveryPoint
from services.cli.connection import connect
from services.cli.output import Output, human_bytes
from services.cli.progress import progress_bars


def add_parser(
    nouns: "argparse._SubParsersAction[argparse.ArgumentParser]",
    everywhere: argparse.ArgumentParser,
) -> None:
    """Add ``restore``."""
    text = "give a recovery point back as a file or onto a block device, every chunk verified"
    restore = nouns.add_parser("restore", parents=[everywhere], help=text, description=text)
    restore.add_argument("point", metavar="NAME@POINT", help="what to give back")
    restore.add_argument("out", metavar="OUT", help="file to make, or block device")
    restore.add_argument(
        "--force",
        action="store_true",
        help="overwrite what OUT holds; a file is replaced by a new one (mode 0600) at the end",
    )
    restore.set_defaults(run=_restore)


def _restore(args: argparse.Namespace) -> int:
    from libs.restoring.restore import restore  # noqa: PLC0415 -- brings ciphers and codecs

    point, services = RecoveryPoint.parse(args.point), connect(args)
    with progress_bars() as show_bar:
        figures = restore(
            services.restore,
            services.tenant,
            point,
            Path(args.out),
            force=args.force,
            progressed=lambda done_bytes, total_bytes: show_bar(
                str(point), done_bytes, total_bytes
            ),
        )
    Output(as_json=args.json).show(
        {
            "bytes": figures.bytes,
            "fetched_bytes": figures.fetched_bytes,
            "seconds": figures.seconds,
            "verified": figures.verified,
        },
        f"{args.out}: {human_bytes(figures.bytes)}, fetched {human_bytes(figures.fetched_bytes)} "
        f"in {figures.seconds:.1f} s, every chunk verified",
    )
    return 0
