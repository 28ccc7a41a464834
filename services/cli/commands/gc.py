"""``backcast gc``: deletes now what nothing needs, as the catalog service does by itself."""

import argparse
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from libs.errors import error_class
from libs.ids import uuid7
from libs.sizes import human_bytes
from services.cli.connection import Services, connect
from services.cli.output import Output
from services.cli.patience import get_again, post_again
from services.cli.progress import ShowBar, progress_bars

#: The service answers sooner when a pass of upkeep ends. It must stay below its limit of 30 s.
_WAIT_SECONDS = 2

Document = dict[str, Any]


def add_parser(
    nouns: "argparse._SubParsersAction[argparse.ArgumentParser]",
    everywhere: argparse.ArgumentParser,
) -> None:
    """Add ``gc``."""
    text = "delete what expired snapshots and failed sessions have left; for all tenants"
    gc = nouns.add_parser("gc", parents=[everywhere], help=text, description=text)
    gc.add_argument(
        "--dry-run",
        action="store_true",
        help="only say what would be freed, by upkeep too; write nothing",
    )
    gc.add_argument(
        "--upkeep",
        action="store_true",
        help="also sweep the store and rewrite mostly dead packs now, which the service does every "
        "few hours: reading block maps may take as long",
    )
    gc.add_argument(
        "--accept",
        metavar="NAME",
        help="let go what is held back under this name, as it was shown: after a look at it",
    )
    gc.add_argument(
        "--explain",
        metavar="ID",
        help="say who uses a chunk (64 hexadecimal digits) or a pack (its generation, 32)",
    )
    gc.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    services, out = connect(args), Output(as_json=args.json)
    if args.accept:
        accepted = services.catalog.post(f"/v1/halts/{quote(args.accept, safe='')}/acceptance")
        out.show(accepted, f"{accepted['name']}: accepted")
        return 0
    if args.explain:
        found = services.catalog.get(f"/v1/explanations/{quote(args.explain, safe='')}")
        out.show(found, lambda found: "\n".join(_explained(found)))
        return 0
    found = services.catalog.get("/v1/collection")
    for halt in found["halts"]:
        size = human_bytes(halt["suspect_bytes"])
        out.note(f"warning: {halt['suspects']} held back ({size}): {halt['message']}")
    if args.dry_run:
        _survey(services, out, found)
        return 0
    return _free(services, out, found, upkeep=args.upkeep)


def _survey(services: Services, out: Output, found: Document) -> None:
    """The dry run."""
    sweep = rewriting = None
    if found["reconciled"]:
        with progress_bars() as show_bar:
            sweep = _summed(services, "/v1/upkeep/sweep", show_bar)
            rewriting = _summed(services, "/v1/upkeep/rewriting", show_bar)
    else:
        out.note("warning: the catalog is not reconciled with the store: no object can be judged")
    result = {"dry_run": True, **found, "sweep": sweep, "rewriting": rewriting}
    out.show(result, lambda result: "\n".join(_would(result)))


def _free(services: Services, out: Output, found: Document, *, upkeep: bool) -> int:
    """Collect, and with upkeep sweep, rewrite, and collect what that has condemned."""
    done: Document | None = None
    with progress_bars() as show_bar:
        freed = _collect(services, found["pack_bytes"] + found["tombstone_bytes"], show_bar)
        if upkeep:
            done = _keep_up(services, show_bar)
            freed.update(_collect(services, done["rewriting"]["rewritten_bytes"], show_bar))
    result = {
        "dry_run": False,
        **freed,
        "clock": found["clock"],
        "halts": found["halts"],
        "sweep": done and done["sweep"],
        "rewriting": done and done["rewriting"],
    }
    out.show(result, lambda result: "\n".join(_did(result)))
    if freed["failures"]:
        out.note(f"warning: {freed['failures']} objects were not deleted; tried again later")
    if done and done["state"] == "failed":
        out.failure(done["code"], f"upkeep was put off: {done['message']}")
        return error_class(done["code"]).exit_code
    return 0


def _explained(found: dict[str, Any]) -> Iterator[str]:
    for pack in found["packs"]:
        size = human_bytes(pack["size_bytes"])
        yield f"pack {pack['generation']}: {pack['state']}, {size}, {pack['items']} items"
        if pack["moved_to"]:
            yield f"  its live items moved to pack {pack['moved_to']}"
        for pin in pack["pins"]:
            what = "a lease on snapshot" if pin["is_reader"] else "an attempt of session"
            yield f"  pinned by {what} {pin['session']} until {pin['deadline']}"
        for use in pack["uses"]:
            last = "" if use["last_sequence"] is None else use["last_sequence"]
            yield f"  used by {use['volume']}@{use['first_sequence']}-{last} of {use['tenant']}"
    for place in found["places"]:
        where = f"{place['volume']}@{place['sequence']} of {place['tenant']}"
        yield f"at byte {place['offset_bytes']} of {where}"


def _would(result: Document) -> Iterator[str]:
    packs = result["packs"] + result["tombstones"]
    size = human_bytes(result["pack_bytes"] + result["tombstone_bytes"])
    yield f"would delete {packs} packs ({size}) and {result['manifests']} manifests"
    sweep, rewriting = result["sweep"], result["rewriting"]
    if sweep:
        yield f"a sweep would delete {_swept(sweep)}"
    if rewriting:
        most_bytes = rewriting["freed_bytes_estimated"]
        text = (
            f"rewriting {rewriting['packs']} mostly dead packs "
            f"({human_bytes(rewriting['pack_bytes'])}) would free {human_bytes(most_bytes)}"
        )
        if rewriting["unsure_packs"]:
            text += (
                f", or down to {human_bytes(most_bytes - rewriting['unsure_bytes'])}, "
                f"as older snapshots use {rewriting['unsure_packs']} of them"
            )
        yield text
        if rewriting["small_packs"]:
            size = human_bytes(rewriting["small_bytes"])
            yield f"and would merge {rewriting['small_packs']} small packs ({size})"


def _did(result: Document) -> Iterator[str]:
    size = human_bytes(result["freed_bytes"])
    manifests = result["manifests_deleted"]
    yield f"deleted {result['packs_deleted']} packs ({size}) and {manifests} manifests"
    sweep, rewriting = result["sweep"], result["rewriting"]
    if sweep:
        yield f"the sweep deleted {_swept(sweep)}"
    if rewriting:
        yield (
            f"{rewriting['rewritten']} of {rewriting['candidates']} mostly dead packs "
            f"({human_bytes(rewriting['rewritten_bytes'])}) were rewritten, to "
            f"{rewriting['written']} ({human_bytes(rewriting['written_bytes'])})"
        )


def _swept(sweep: Document) -> str:
    text = (
        f"{sweep['packs'] + sweep['manifests']} objects ({human_bytes(sweep['freed_bytes'])}), "
        f"{sweep['unnamed']} of them ({human_bytes(sweep['unnamed_bytes'])}) that no row names"
    )
    if sweep["held_back"]:
        text += f"; {sweep['held_back']} ({human_bytes(sweep['held_back_bytes'])}) are held back"
    if sweep["young"]:
        text += f"; {sweep['young']} ({human_bytes(sweep['young_bytes'])}) are too young to judge"
    return text


def _summed(services: Services, path: str, show_bar: ShowBar) -> Document:
    """A survey, step by step; each writes nothing and may be asked for again."""
    found: Counter[str] = Counter()
    query: dict[str, object] = {}
    while True:
        step = get_again(services.catalog, path, query)
        query = {"cursor": step.pop("cursor")}
        found.update(step)
        show_bar("surveying", found["freed_bytes"] + found["freed_bytes_estimated"], 0)
        if query["cursor"] is None:
            return dict(found)


def _keep_up(services: Services, show_bar: ShowBar) -> Document:
    """Ask for a pass of upkeep and follow it to its end.

    Asking again is how one looks: a service that was restarted meanwhile begins the pass anew.
    """
    expected = _summed(services, "/v1/upkeep/rewriting", show_bar)["pack_bytes"]
    path, request = f"/v1/upkeep?wait_seconds={_WAIT_SECONDS}", {"upkeep": str(uuid7())}
    while True:
        answer: Document = post_again(services.catalog, path, request)
        show_bar("sweeping", answer["sweep"]["freed_bytes"], 0)
        if answer["state"] == "rewriting":
            show_bar("rewriting", answer["rewriting"]["rewritten_bytes"], expected)
        if answer["state"] in ("done", "failed"):
            return answer


def _collect(services: Services, expected_bytes: int, show_bar: ShowBar) -> Counter[str]:
    """A whole pass, step by step; each may be asked for again."""
    freed: Counter[str] = Counter()
    cursor: str | None = None
    while True:
        step = post_again(services.catalog, "/v1/collection/steps", {"cursor": cursor})
        cursor = step.pop("cursor")
        freed.update(step)
        show_bar("deleting", freed["freed_bytes"], max(expected_bytes, freed["freed_bytes"]))
        if cursor is None:
            return freed
