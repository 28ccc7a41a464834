"""``backcast status``: one screen that says whether all is well."""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from libs.errors import BackcastError, ForbiddenError
from services.cli.connection import Services, connect
from services.cli.output import Column, Document, Output, human_time, table
from services.cli.times import seconds_of

#: How the command ends when something is not well; errors have statuses of their own.
NOT_WELL_EXIT_CODE = 1
#: Tenant of notifications that concern the whole installation.
_EVERYBODY = "*"
#: What a notification may name, as people call it.
_THINGS = ("group", "volume", "node", "store")


def add_parser(
    nouns: "argparse._SubParsersAction[argparse.ArgumentParser]",
    everywhere: argparse.ArgumentParser,
) -> None:
    """Add ``status``."""
    text = "say whether all is well: exit status 0 if it is, else 1 with the reasons"
    status = nouns.add_parser("status", parents=[everywhere], help=text, description=text)
    status.add_argument(
        "--max-age",
        metavar="AGE",
        help="how old a group's newest recovery point may be, such as 26h (s, m, h, d)",
    )
    status.set_defaults(run=_status)


def _status(args: argparse.Namespace) -> int:
    services, out = connect(args), Output(as_json=args.json)
    age = None if args.max_age is None else seconds_of("--max-age", args.max_age)
    tenant = services.catalog.get(services.path("/status"), {"age_seconds_max": age})
    open_now = _notifications(services)
    problems = [*_not_ready(services), *tenant["problems"]]
    remarks = list(tenant["remarks"])
    try:
        installation = services.catalog.get("/v1/status")
    except ForbiddenError:
        message = "this token sees its tenant alone, not catalog, brakes and stores"
        remarks.append({"code": "tenant-only", "about": "", "message": message})
    else:
        problems += installation["problems"]
        remarks += installation["remarks"]
    told, known = _told(open_now, problems, services.tenant)
    problems, remarks = problems + told, remarks + known
    found = {"ok": not problems, "problems": problems, "remarks": remarks}
    found |= {"notifications": open_now, "groups": tenant["groups"]}
    # A catalog service of an earlier release does not say them.
    found |= {name: tenant.get(name) for name in ("stored_bytes", "quota_bytes")}
    out.show(found, lambda shown: "\n".join(_lines(shown)))
    return NOT_WELL_EXIT_CODE if problems else 0


def _not_ready(services: Services) -> Iterator[Document]:
    """The services that cannot take work; the restore service has answered already."""
    asked: dict[str, Callable[[], Any]] = {
        "restore": lambda: services.restore.get("/readyz"),
        "coordinator": lambda: services.coordinator.get("/readyz"),
        "catalog": lambda: services.catalog.get("/readyz"),
    }
    for name, ask in asked.items():
        try:
            ask()
        except BackcastError as err:
            message = f"is not ready: {err}"
            yield {"code": "service-not-ready", "about": f"service {name}", "message": message}


def _notifications(services: Services) -> list[Document]:
    """What is open: of all tenants and of the installation, if the token may see them."""
    found: list[Document]
    try:
        found = services.restore.get("/v1/notifications")
    except ForbiddenError:  # the token is of one tenant
        found = services.get("/notifications")
    return found


def _told(
    open_now: list[Document], problems: list[Document], tenant: str
) -> tuple[list[Document], list[Document]]:
    """Problems and remarks of open notifications, without what was just found as well."""
    found = {(one["code"], one["about"]) for one in problems}
    told, known, others = list[Document](), list[Document](), Counter[str]()
    for one in open_now:
        if one["tenant"] not in (tenant, _EVERYBODY):
            others[one["tenant"]] += 1
            continue
        if any((one["kind"], one[thing]) in found for thing in _THINGS):
            continue
        message = f"{one['message']} (since {human_time(one['opened_at'])})"
        finding = {"code": one["kind"], "about": "", "message": message}
        (told if one["severity"] == "error" else known).append(finding)
    for name, count in sorted(others.items()):
        what = "notification is" if count == 1 else "notifications are"
        message = f"{count} {what} open; `backcast status --tenant {name}` says more"
        known.append({"code": "other-tenant", "about": f"tenant {name}", "message": message})
    return told, known


def _lines(found: Document) -> Iterator[str]:
    if found["groups"]:
        yield table(
            [
                Column("group", lambda one: one["group"]),
                Column("volumes", lambda one: len(one["volumes"]), right=True),
                Column("latest", _latest),
                Column("state", _state),
            ],
            found["groups"],
        )
        yield ""
    for heading, findings in (("PROBLEM", found["problems"]), ("remark", found["remarks"])):
        for one in findings:
            about = f"{one['about']}: " if one["about"] else ""
            yield f"{heading}  {about}{one['message']}"
    count = len(found["problems"])
    yield "all is well" if not count else f"{count} problem{'' if count == 1 else 's'}"


def _latest(group: Document) -> str:
    if group["sequence"] is None:
        return "none"
    return f"@{group['sequence']}, {human_time(group['sealed_at'])}"


def _state(group: Document) -> str:
    if group["open_session"]:
        return f"taking a snapshot for {group['open_seconds']:.0f} s"
    if group["paused_by"]:
        return f"paused by {group['paused_by']}"
    return f"last one failed: {group['failed_code']}" if group["failed_session"] else "ok"
