"""``backcast status``: one screen that says whether all is well."""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from libs.errors import BackcastError, ForbiddenError, NotFoundError, UnavailableError
from services.cli.commands.health.asking import ask_at_once
from services.cli.commands.health.readiness import ServiceState, ask_services
from services.cli.connection import Services, connect
from services.cli.output import Column, Document, Output, human_time, table
from services.cli.times import seconds_of

#: How the command ends when something is not well; errors have statuses of their own.
NOT_WELL_EXIT_CODE = 1
#: For what a service that is ready says of many groups.
_ANSWER_SECONDS_MAX = 20.0
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
    states = ask_services(services)
    found = _asked(services, age, states)
    problems = [one for state in states.values() for one in state.problems()]
    remarks = [one for state in states.values() for one in state.remarks()]
    tenant, installation = found["tenant"], found["installation"]
    for answer in (tenant, installation):
        if isinstance(answer, ForbiddenError):
            message = "this token sees its tenant alone, not catalog, chunkers, brakes and stores"
            remarks.append({"code": "tenant-only", "about": "", "message": message})
        elif isinstance(answer, BackcastError):
            problems.append(_unknown("how backups stand is not known", answer))
        elif answer is not None:
            problems += answer["problems"]
            remarks += answer["remarks"]
    open_now = found["notifications"]
    if isinstance(open_now, BackcastError):
        problems.append(_unknown("which notifications are open is not known", open_now))
    notifications = open_now if isinstance(open_now, list) else []
    told, known = _told(notifications, problems, services.tenant)
    problems, remarks = problems + told, remarks + known
    known_of_tenant = tenant if isinstance(tenant, dict) else {}
    shown = {"ok": not problems, "problems": problems, "remarks": remarks}
    shown |= {"services": [one.document for one in states.values()]}
    shown |= {"chunkers": installation["chunkers"] if isinstance(installation, dict) else []}
    shown |= {"notifications": notifications, "groups": known_of_tenant.get("groups", [])}
    # A catalog service of an earlier release does not say them.
    shown |= {name: known_of_tenant.get(name) for name in ("stored_bytes", "quota_bytes")}
    out.show(shown, lambda document: "\n".join(_lines(document)))
    return NOT_WELL_EXIT_CODE if problems else 0


def _asked(
    services: Services, age_seconds_max: float | None, states: Mapping[str, ServiceState]
) -> dict[str, Any]:
    """What the services say; None of what a service that is not ready would be asked.

    Raises:
        BackcastError: a refusal; what merely has no answer now is returned.
    """
    questions: dict[str, Callable[[], Any]] = {}
    if not states["catalog"].trouble:
        query = {"age_seconds_max": age_seconds_max}
        path = services.path("/status")
        questions["tenant"] = lambda: services.catalog.get(path, query)
        questions["installation"] = lambda: services.catalog.get("/v1/status")
    if not states["restore"].trouble:
        questions["notifications"] = lambda: _notifications(services)
    nothing = dict.fromkeys(("tenant", "installation", "notifications"))
    found = nothing | ask_at_once(questions, _ANSWER_SECONDS_MAX)
    is_away = any(state.trouble or state.servers for state in states.values())
    for name, answer in found.items():
        is_allowed = name == "installation" and isinstance(answer, ForbiddenError)
        # An unknown tenant must not hide what is away.
        is_told = isinstance(answer, UnavailableError)
        is_told = is_told or (is_away and isinstance(answer, NotFoundError))
        if isinstance(answer, BackcastError) and not is_allowed and not is_told:
            raise answer
    return found


def _unknown(what: str, err: BackcastError) -> Document:
    return {"code": err.code, "about": "", "message": f"{what}: {err}"}


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
        names = [one[thing] for thing in _THINGS] if any(one[thing] for thing in _THINGS) else [""]
        if any((one["kind"], name) in found for name in names):
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
    parts = [{"part": one["service"], "state": _service_state(one)} for one in found["services"]]
    parts += [
        {"part": f"chunker {one['name']}", "state": _chunker_state(one)}
        for one in found["chunkers"]
    ]
    columns = [
        Column("service", lambda one: one["part"]),
        Column("state", lambda one: one["state"]),
    ]
    yield table(columns, parts)
    yield ""
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


def _service_state(one: Document) -> str:
    state = "ready" if one["ready"] else "not ready"
    return f"{state}: {one['reason']}" if one["reason"] else state


def _chunker_state(one: Document) -> str:
    if one["trouble"]:
        return f"not ready: {one['trouble']}"
    reads = f"reads {one['partitions']} partitions"
    return f"{reads}, last heard of {one['silent_seconds']:.0f} s ago"


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
