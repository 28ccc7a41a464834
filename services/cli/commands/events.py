"""``backcast events`` and ``backcast notification``: what was decided, and what is wrong now.

Both as the catalog has it, so that they need no Kafka.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

from libs.errors import ForbiddenError
from services.cli.connection import Services, connect
from services.cli.output import Column, Document, Output, human_time
from services.cli.patience import get_again, get_page

_PAGE_EVENTS = 1000
#: The service answers sooner when there is an event.
_WAIT_SECONDS = 20


def add_parser(
    nouns: "argparse._SubParsersAction[argparse.ArgumentParser]",
    everywhere: argparse.ArgumentParser,
) -> None:
    """Add ``events`` and ``notification``, and their verbs."""
    events = nouns.add_parser("events", parents=[everywhere], help="what happened, in order")
    verbs = events.add_subparsers(required=True, metavar="COMMAND")
    text = "print the tenant's events from the catalog's log, oldest first"
    tail = verbs.add_parser("tail", parents=[everywhere], help=text, description=text)
    tail.add_argument("--topic", help="only this topic, such as backcast.snapshots (default: all)")
    tail.add_argument(
        "--after",
        default="",
        metavar="CURSOR",
        help="begin after this `cursor` of an event, as --json shows it (default: from the "
        "beginning)",
    )
    tail.add_argument("--follow", action="store_true", help="wait for more; end with Ctrl-C")
    tail.set_defaults(run=_tail)
    text = "what is wrong now: rejected snapshots, damage, silent nodes, full disks"
    notification = nouns.add_parser(
        "notification", parents=[everywhere], help=text, description=text
    )
    verbs = notification.add_subparsers(required=True, metavar="COMMAND")
    text = (
        "list what is wrong now, of all tenants and of the installation; with --tenant, or with a "
        "token of one tenant, what concerns that tenant"
    )
    lister = verbs.add_parser("list", parents=[everywhere], help=text, description=text)
    lister.set_defaults(run=_list_wrong)


def _tail(args: argparse.Namespace) -> int:
    services, out = connect(args), Output(as_json=args.json)
    for event in _events(services, out, args.topic, args.after, follow=args.follow):
        out.show(event, _line)
    return 0


def _events(
    services: Services, out: Output, topic: str | None, after: str, *, follow: bool
) -> Iterator[dict[str, Any]]:
    query: dict[str, object] = {"topic": topic, "after": after, "limit": _PAGE_EVENTS}
    if follow:
        query["wait_seconds"] = _WAIT_SECONDS
    ask: Callable[..., Any] = get_page
    while True:
        page = ask(services.restore, services.path("/events"), query)
        if follow:  # a service that answered once will answer again after its restart
            ask = get_again
        for name in page["folded"]:
            out.note(f"{name}: the catalog no longer keeps the first events")
        yield from page["events"]
        if not page["events"] and not follow:
            return
        query["after"] = page["next"]


def _line(event: Document) -> str:
    data = " ".join(f"{name}={value}" for name, value in event["data"].items())
    return f"{event['occurred_at']} {event['topic']} {event['type']} {data}"


def _list_wrong(args: argparse.Namespace) -> int:
    out = Output(as_json=args.json)
    found = _wrong(connect(args), is_one_tenant=args.tenant is not None)
    if not found:
        out.note("nothing is known to be wrong")
    if found or args.json:
        out.show_all(
            found,
            [
                Column("since", lambda one: human_time(one["opened_at"])),
                Column("severity", lambda one: one["severity"]),
                Column("kind", lambda one: one["kind"]),
                Column("tenant", lambda one: one["tenant"]),
                Column("message", lambda one: one["message"]),
            ],
        )
    return 0


def _wrong(services: Services, *, is_one_tenant: bool) -> list[Document]:
    found: list[Document]
    if not is_one_tenant:
        try:
            found = services.restore.get("/v1/notifications")
        except ForbiddenError:  # the token is of one tenant
            pass
        else:
            return found
    found = services.get("/notifications")
    return found
