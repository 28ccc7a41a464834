"""``backcast snapshot verify``: asks the catalog service whether a recovery point can be read."""

import argparse
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from libs.errors import BadInputError, DamagedDataError, error_class
from libs.ids import uuid7
from libs.points import RecoveryPoint
from libs.sizes import human_bytes
from services.cli.connection import Services, connect
from services.cli.output import Output
from services.cli.patience import get_again, post_again
from services.cli.progress import ShowBar, progress_bars

#: The service answers sooner when the verification ends. It must stay below its limit of 30 s.
_WAIT_SECONDS = 2
_CHUNK_SIZE_BYTES = 64 * 1024
#: As the service has it by default.
_SAMPLE_PERCENT = 5.0
#: What a verification that found nothing wrong has shown, by its level.
_SHOWN = {
    "structural": "structure intact, data not read",
    "sampled": "structure and a sample of the data intact",
    "full": "intact, all data read",
}

Verification = dict[str, Any]


def add_verify_parser(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]",
    everywhere: argparse.ArgumentParser,
) -> None:
    """Add ``snapshot verify``."""
    text = "check that a recovery point can be read; damage is named, and ends with status 6"
    verify = verbs.add_parser("verify", parents=[everywhere], help=text, description=text)
    verify.add_argument("point", metavar="NAME@POINT", help="which; its whole group is checked")
    verify.add_argument(
        "--level",
        choices=("structural", "sampled", "full"),
        default="structural",
        help="structural: manifest, block maps, and each pack's size and own index, but no data; "
        "sampled: also a random share of the data; full: every byte (default: structural)",
    )
    verify.add_argument(
        "--sample",
        type=_percent,
        metavar="P%",
        help=f"that share, with --level sampled (default: {_SAMPLE_PERCENT:g}%%)",
    )
    verify.add_argument(
        "--resume",
        action="store_true",
        help="skip packs that were found intact at this level in the last day",
    )
    verify.set_defaults(run=_verify)


def _verify(args: argparse.Namespace) -> int:
    if args.sample is not None and args.level != "sampled":
        raise BadInputError(
            f"--sample: is the share of --level sampled; --level {args.level} has none"
        )
    services, out = connect(args), Output(as_json=args.json)
    point = RecoveryPoint.parse(args.point)
    found = services.get(point.path)
    request = {
        "verification": str(uuid7()),
        "level": args.level,
        "sample_percent": args.sample or _SAMPLE_PERCENT,
        "resume": args.resume,
    }
    with progress_bars() as show_bar:
        end = _end(services, UUID(found["session"]), request, show_bar)
    if end["state"] == "failed":
        out.failure(end["code"], f"{point} was not verified: {end['message']}")
        return error_class(end["code"]).exit_code
    result = {"point": f"{found['volume']}@{found['sequence']}", **end}
    out.show(result, lambda result: "\n".join(_lines(result)))
    return 0 if end["state"] == "intact" else DamagedDataError.exit_code


def _end(
    services: Services, session: UUID, request: Verification, show_bar: ShowBar
) -> Verification:
    """Begin a verification and wait for its end; an answer that got lost is asked for again."""
    snapshot = services.get(f"/snapshots/{session}")
    total_bytes = sum(volume["size_bytes"] for volume in snapshot["volumes"])
    begin = services.path(f"/snapshots/{session}/verifications")
    answer: Verification = post_again(services.catalog, begin, request)
    path = services.path(f"/verifications/{request['verification']}")
    query = {"wait_seconds": _WAIT_SECONDS}
    while answer["state"] == "running":
        show_bar("block maps", answer["chunks"] * _CHUNK_SIZE_BYTES, total_bytes)
        if answer["packs_total"]:
            show_bar("packs", answer["pack_bytes_done"], answer["pack_bytes_total"])
        answer = get_again(services.catalog, path, query)
    return answer


def _lines(result: Verification) -> Iterator[str]:
    fetched = human_bytes(result["fetched_bytes"])
    checked = f"{result['packs_done']} packs, {result['frames']} frames, fetched {fetched}"
    if result["copies_damaged"]:
        yield (
            f"{result['copies_damaged']} copies of packs were damaged, and another one is intact: "
            f"{result['copies_repaired']} of them were made anew from that"
        )
    if result["state"] == "intact":
        yield f"{result['point']}: {_SHOWN[result['level']]} ({checked})"
        return
    damaged = human_bytes(result["damaged_bytes"])
    yield f"{result['point']}: DAMAGED: {damaged} in {result['extent_count']} extents ({checked})"
    if result["manifest"]:
        yield f"manifest: {result['manifest']}"
    for one in result["extents"]:
        end = one["offset_bytes"] + one["length_bytes"]
        pack = one["generation"] or "unknown"
        yield f"{one['volume']}: bytes {one['offset_bytes']} to {end} (pack {pack})"
    if result["extent_count"] > len(result["extents"]):
        yield f"and {result['extent_count'] - len(result['extents'])} more"
    if result["extent_count"]:
        yield "the next snapshot of a volume that still has these bytes repairs them"


def _percent(text: str) -> float:
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = 0
    if not 0 < percent <= 100:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a share such as 5%")
    return percent
