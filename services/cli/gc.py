"""``backcast gc``: deletes now what nothing needs, as the catalog service does by itself."""

import argparse
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from libs.runtime.retries import retried
from services.cli.connection import Services, connect
from services.cli.output import Output, human_bytes
from services.cli.progress import progress_bars

#: The service may be away for so long, as in a restart, before the command gives up.
_RETRY_SECONDS_MAX = 30.0


def add_parser(
    nouns: "argparse._SubParsersAction[argparse.ArgumentParser]",
    everywhere: argparse.ArgumentParser,
) -> None:
    """Add ``gc``."""
    text = "delete what expired snapshots and failed sessions have left; for all tenants"
    gc = nouns.add_parser("gc", parents=[everywhere], help=text, description=text)
    gc.add_argument(
        "--dry-run", action="store_true", help="only say what would be deleted; write nothing"
    )
    gc.add_argument(
        "--accept-clock",
        action="store_true",
        help="trust the server's clock again after it has jumped, so that retention goes on",
    )
    gc.add_argument(
        "--explain",
        metavar="ID",
        help="say who uses a chunk (64 hexadecimal digits) or a pack (its generation, 32)",
    )
    gc.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    services, out = connect(args), Output(as_json=args.json)
    if args.accept_clock:
        clock = services.catalog.post("/v1/clock/acceptance")
        out.show(clock, f"the clock is trusted: {clock['trusted_at']}")
        return 0
    if args.explain:
        found = services.catalog.get(f"/v1/explanations/{quote(args.explain, safe='')}")
        out.show(found, "\n".join(_explained(found)))
        return 0
    found = services.catalog.get("/v1/collection")
    if found["clock"]["halted"]:
        out.note(
            f"warning: the clock of the catalog has jumped from {found['clock']['trusted_at']} to "
            f"{found['clock']['server_at']}, so no snapshot expires by retention; if it is right, "
            f"run: backcast gc --accept-clock"
        )
    if args.dry_run:
        out.show({"dry_run": True, **found}, _would(found))
        return 0
    freed = _collect(services, found["pack_bytes"] + found["tombstone_bytes"])
    out.show(
        {"dry_run": False, **freed, "clock": found["clock"]},
        f"deleted {freed['packs_deleted']} packs ({human_bytes(freed['freed_bytes'])}) and "
        f"{freed['manifests_deleted']} manifests",
    )
    if freed["failures"]:
        out.note(f"warning: {freed['failures']} objects were not deleted; tried again later")
    return 0


def _explained(found: dict[str, Any]) -> Iterator[str]:
    for pack in found["packs"]:
        size = human_bytes(pack["size_bytes"])
        yield f"pack {pack['generation']}: {pack['state']}, {size}, {pack['items']} items"
        if pack["moved_to"]:
            yield f"  its live items moved to pack {pack['moved_to']}"
        for pin in pack["pins"]:
            what = "a reader of snapshot" if pin["is_reader"] else "an attempt of session"
            yield f"  pinned by {what} {pin['session']} until {pin['deadline']}"
        for use in pack["uses"]:
            last = "" if use["last_sequence"] is None else use["last_sequence"]
            yield f"  used by {use['volume']}@{use['first_sequence']}-{last} of {use['tenant']}"
    for place in found["places"]:
        where = f"{place['volume']}@{place['sequence']} of {place['tenant']}"
        yield f"at byte {place['offset_bytes']} of {where}"


def _would(found: dict[str, Any]) -> str:
    packs = found["packs"] + found["tombstones"]
    size = human_bytes(found["pack_bytes"] + found["tombstone_bytes"])
    return f"would delete {packs} packs ({size}) and {found['manifests']} manifests"


def _collect(services: Services, expected_bytes: int) -> dict[str, int]:
    """A whole pass, step by step; each may be asked for again."""
    freed: Counter[str] = Counter()
    cursor: str | None = None
    with progress_bars() as progress:
        while True:
            body = {"cursor": cursor}
            step = retried(
                lambda: services.catalog.post("/v1/collection/steps", body),  # noqa: B023 -- at once
                _RETRY_SECONDS_MAX,
            )
            cursor = step.pop("cursor")
            freed.update(step)
            progress("deleting", freed["freed_bytes"], max(expected_bytes, freed["freed_bytes"]))
            if cursor is None:
                return dict(freed)
