"""``backcast catalog …``: how the catalog stands to the store, reconcile, rebuild, check."""

import argparse
import time
from typing import Any

from libs.errors import DamagedDataError, NotReconciledError, UnavailableError
from services.cli.connection import Services, connect
from services.cli.output import Output
from services.cli.patience import get_again

_POLL_SECONDS = 0.5
#: For so long a catalog service that restarts is waited for.
_PATIENCE_SECONDS = 60.0
#: How many differences are shown; ``--json`` shows all that the service tells.
_SHOWN_MAX = 50
#: What whoever asks for it should know before (`services.catalog.recovery.reconciler`).
_PAUSE = (
    "No snapshot begins and nothing is deleted until it is done. It first waits 90 s for deletions "
    "that are under way. Sessions that are open are rejected; restores go on."
)


def add_parser(nouns: Any, everywhere: argparse.ArgumentParser) -> None:
    """Add the noun and its verbs."""
    text = "the catalog: status, checkpoint, reconcile, rebuild, check"
    parser = nouns.add_parser("catalog", parents=[everywhere], help=text, description=text)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    text = (
        "say whether the catalog agrees with the store, and what it waits for; status 8 unless it "
        "agrees"
    )
    status = verbs.add_parser("status", parents=[everywhere], help=text, description=text)
    status.set_defaults(run=_status)
    text = "write what only the catalog knows into the store now, as a checkpoint"
    checkpoint = verbs.add_parser("checkpoint", parents=[everywhere], help=text, description=text)
    checkpoint.set_defaults(run=_checkpoint)
    text = "compare the catalog with all of the store, and take back what it has forgotten"
    reconcile = verbs.add_parser(
        "reconcile",
        parents=[everywhere],
        help=text,
        description=f"{text}. {_PAUSE}",
    )
    reconcile.set_defaults(run=_reconcile)
    text = "fill an empty catalog from what is left"
    rebuild = verbs.add_parser("rebuild", parents=[everywhere], help=text, description=text)
    rebuild.add_argument(
        "--from",
        dest="source",
        choices=["store", "log"],
        default="store",
        help="log: Kafka's copy of the event log decides which snapshots were acknowledged; "
        "without it the store does (default)",
    )
    rebuild.set_defaults(run=_rebuild)
    text = "rebuild the catalog beside the live one and compare both; status 6 if they differ"
    check = verbs.add_parser("check", parents=[everywhere], help=text, description=text)
    check.set_defaults(run=_check)


def _status(args: argparse.Namespace) -> int:
    found = connect(args).catalog.get("/v1/catalog")
    Output(as_json=args.json).show(found, _described)
    return 0 if _agrees(found) else NotReconciledError.exit_code


def _agrees(found: Any) -> bool:
    """Whether the catalog knows what the store knows, by a look that worked."""
    is_current: bool = found["compared"] and found["reconciled"] and not found["error"]
    return is_current and found["standing"] == "current"


def _checkpoint(args: argparse.Namespace) -> int:
    made = connect(args).catalog.post("/v1/catalog/checkpoint")
    text = f"checkpoint {made['incarnation']}/{made['number']} is in the store"
    Output(as_json=args.json).show(made, text)
    return 0


def _reconcile(args: argparse.Namespace) -> int:
    Output(as_json=args.json).note(_PAUSE)
    return _ordered(args, "reconcile", None)


def _rebuild(args: argparse.Namespace) -> int:
    return _ordered(args, "rebuild", {"source": args.source})


def _ordered(args: argparse.Namespace, what: str, body: Any) -> int:
    services, out = connect(args), Output(as_json=args.json)
    before = services.catalog.post(f"/v1/catalog/{what}", body)["incarnation"]
    step = ""
    while True:
        found = _followed(services, "/v1/catalog")
        if found["error"]:
            raise UnavailableError(f"catalog: {found['error']}")
        if found["incarnation"] > before and found["reconciled"]:
            break
        if found["reconciliation"]["step"] != step:
            step = found["reconciliation"]["step"]
            out.note(f"{step} …")
        time.sleep(_POLL_SECONDS)
    out.show(found, _described)
    damaged = found["reconciliation"]["damaged"]
    if damaged:
        points = ", ".join(one["point"] for one in damaged[:_SHOWN_MAX])
        raise DamagedDataError(f"catalog: snapshots lack bytes that the store has lost: {points}")
    return 0


def _check(args: argparse.Namespace) -> int:
    services, out = connect(args), Output(as_json=args.json)
    services.catalog.post("/v1/catalog/check")
    while True:
        found = _followed(services, "/v1/catalog/check")
        if not found["running"]:
            break
        time.sleep(_POLL_SECONDS)
    if found["error"]:
        raise UnavailableError(f"catalog: {found['error']}")
    out.show(found, _compared)
    return DamagedDataError.exit_code if found["differences"] else 0


def _compared(found: Any) -> str:
    lines = [f"{found['rows']} rows compared, {found['differences']} differ"]
    for one in found["told"][:_SHOWN_MAX]:
        lines += [f"{one['table']} {one['key']}", f"  live    {one['live']}"]
        lines.append(f"  rebuilt {one['rebuilt']}")
    if found["changed_meanwhile"]:
        lines.append("something was decided meanwhile; check again when less is going on")
    return "\n".join(lines)


def _followed(services: Services, path: str) -> Any:
    return get_again(services.catalog, path, seconds_max=_PATIENCE_SECONDS)


def _described(found: Any) -> str:
    agrees = _agrees(found)
    state = "of one mind with the store" if agrees else f"{found['standing']}: work waits"
    lines = [
        f"incarnation {found['incarnation']}, {state}",
        f"checkpoint {found['durable_checkpoint']} is in the store",
    ]
    lines += [found[name] for name in ("reason", "error") if found[name]]
    report = found["reconciliation"]
    if report["step"] != "waiting":
        lines.append(
            f"{report['step']}: {len(report['recovered'])} snapshots came back, "
            f"{report['packs_found']} packs were found and {report['packs_lost']} are gone, "
            f"{report['lineages_counted']} volumes counted"
        )
    lines += [f"damaged: {one['point']}: {one['reason']}" for one in report["damaged"]]
    return "\n".join(lines)
