"""``backcast restore``: gives a recovery point back as a file, onto a device or as a stream."""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from libs.errors import BadInputError
from libs.points import RecoveryPoint
from libs.ranges import ByteRange
from libs.sizes import human_bytes
from services.cli.connection import Services, connect
from services.cli.output import Output
from services.cli.progress import progress_bars
from services.cli.streams import tell_line

if TYPE_CHECKING:
    from libs.restoring.restore import RestoreFigures

#: OUT that means the stream.
_STANDARD_OUTPUT = "-"


def add_parser(
    nouns: "argparse._SubParsersAction[argparse.ArgumentParser]",
    everywhere: argparse.ArgumentParser,
) -> None:
    """Add ``restore``."""
    text = (
        "give a recovery point back as a file, onto a block device or to standard output (-), "
        "every chunk verified"
    )
    restore = nouns.add_parser("restore", parents=[everywhere], help=text, description=text)
    restore.add_argument("point", metavar="NAME@POINT", help="what to give back")
    restore.add_argument(
        "out",
        metavar="OUT",
        help="file to make, or block device; - is standard output, and figures then go to standard "
        "error",
    )
    restore.add_argument(
        "--force",
        action="store_true",
        help="overwrite what OUT holds; a file is replaced by a new one (mode 0600) at the end",
    )
    restore.add_argument(
        "--range",
        dest="wanted",
        type=_range,
        metavar="OFFSET:LENGTH",
        help="only these bytes, decimal or 0x…; OUT has nothing else then (default: all)",
    )
    restore.set_defaults(run=_restore)


def _restore(args: argparse.Namespace) -> int:
    point = RecoveryPoint.parse(args.point)
    if args.out == _STANDARD_OUTPUT:
        if args.force:
            raise BadInputError("--force: overwrites a file or device, and - is neither")
        if sys.stdout.isatty():
            raise BadInputError("-: standard output is a terminal; send it to a file or a program")
    services = connect(args)
    with progress_bars() as show_bar:
        figures = _restored(args, services, point, partial(show_bar, str(point)))
    name = "standard output" if args.out == _STANDARD_OUTPUT else args.out
    document = {
        "bytes": figures.bytes,
        "fetched_bytes": figures.fetched_bytes,
        "seconds": figures.seconds,
        "verified": figures.verified,
    }
    text = (
        f"{name}: {human_bytes(figures.bytes)}, fetched {human_bytes(figures.fetched_bytes)} "
        f"in {figures.seconds:.1f} s, every chunk verified"
    )
    if args.out == _STANDARD_OUTPUT:  # it has the bytes
        tell_line(json.dumps(document) if args.json else text)
    else:
        Output(as_json=args.json).show(document, text)
    return 0


def _restored(
    args: argparse.Namespace,
    services: Services,
    point: RecoveryPoint,
    progressed: Callable[[int, int], None],
) -> "RestoreFigures":
    from libs.restoring.ranges import StreamOutput  # noqa: PLC0415 -- brings ciphers and codecs
    from libs.restoring.restore import restore, restore_to_stream  # noqa: PLC0415 -- the same

    if args.out == _STANDARD_OUTPUT:
        return restore_to_stream(
            services.restore,
            services.tenant,
            point,
            StreamOutput(sys.stdout.fileno(), "standard output"),
            progressed=progressed,
            wanted=args.wanted,
        )
    return restore(
        services.restore,
        services.tenant,
        point,
        Path(args.out),
        force=args.force,
        progressed=progressed,
        wanted=args.wanted,
    )


def _range(text: str) -> ByteRange:
    offset, colon, length = text.partition(":")
    try:
        wanted = ByteRange.at(int(offset, 0), int(length, 0))
    except (ValueError, BadInputError):
        wanted = ByteRange(0, 0)
    if not colon or not wanted.length:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected OFFSET:LENGTH in bytes, such as 1048576:65536 or 0x100000:0x10000"
        )
    return wanted
