"""``backcast events``: what was decided, as the catalog's log has it; needs no Kafka."""

import argparse
from collections.abc import Iterator
from typing import Any

from services.cli.connection import Services, connect
from services.cli.output import Document, Output

_PAGE_EVENTS = 1000
#: The service answers sooner when there is an event.
_WAIT_SECONDS = 20


def add_parser(
    nouns: "argparse._SubParsersAction[argparse.ArgumentParser]",
    everywhere: argparse.ArgumentParser,
) -> None:
    """Add ``events`` and its verbs."""
    events = nouns.add_parser("events", parents=[everywhere], help="what happened, in order")
    verbs = events.add_subparsers(required=True, metavar="COMMAND")
    text = "print the tenant's events from the catalog's log, oldest first"
    tail = verbs.add_parser("tail", parents=[everywhere], help=text, description=text)
    tail.add_argument("--topic", help="only this topic, such as backcast.snapshots (default: all)")
    tail.add_argument(
        "--after",
        default="",
        metavar="POSITION",
        help="begin after this position of --topic (default: from the beginning)",
    )
    tail.add_argument("--follow", action="store_true", help="wait for more; end with Ctrl-C")
    tail.set_defaults(run=_tail)


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
    while True:
        page = services.get("/events", query)
        for name, position in page["folded"].items():
            out.note(f"{name}: the catalog no longer keeps events up to position {position}")
        yield from page["events"]
        if not page["events"] and not follow:
            return
        query["after"] = page["next"]


def _line(event: Document) -> str:
    data = " ".join(f"{name}={value}" for name, value in event["data"].items())
    return f"{event['occurred_at']} {event['topic']}:{event['position']} {event['type']} {data}"
