"""What the command prints: text for people, or JSON for programs; never both on standard output."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from libs.printable import printable, printable_document, printable_lines
from services.cli.streams import tell_line, write_line

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    heading: str
    #: What it shows of a document.
    content: Callable[[Document], object]
    #: Whether it is set to the right, as quantities are.
    right: bool = False


class Output:
    """Results on standard output; notes and errors on standard error.

    What others have named or sent reaches people only in printable characters; JSON escapes it.

    Args:
        as_json: results as JSON, one object per line, flushed one by one; errors too.

    Raises:
        OutputError: standard output does not take a result (`show` and `show_all`).
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def show(self, document: Document, text: str | Callable[[Any], str]) -> None:
        """One result: the document as JSON, or a text.

        Args:
            document: the result.
            text: one line; or what makes the lines of the document, once that is printable.
        """
        if self.as_json:
            write_line(json.dumps(document))
        else:
            write_line(printable(text) if isinstance(text, str) else text(_shown(document)))

    def show_all(self, documents: Iterable[Document], columns: Sequence[Column]) -> None:
        """Results of one kind: a JSON line each, or a table."""
        if not self.as_json:
            write_line(table(columns, map(_shown, documents)))
            return
        for document in documents:
            write_line(json.dumps(document))

    def note(self, text: str) -> None:
        """Tell people something, in one line; programs find it in the result."""
        if not self.as_json:
            tell_line(printable(text))

    def failure(self, code: str, message: str, more: str = "", **names: str) -> None:
        """Why something failed: a line for people, or an object with the stable code.

        Args:
            code: of the error.
            message: one line.
            more: lines below it.
            names: what programs should find in fields of their own, beside the code.
        """
        if self.as_json:
            lines = f"{message}\n{more}" if more else message
            tell_line(json.dumps({"code": code, "message": lines, **names}))
            return
        tell_line(f"backcast: {printable(message)}")
        if more:
            tell_line(printable_lines(more))


def table(columns: Sequence[Column], documents: Iterable[Document]) -> str:
    """A row per document under upper-case headings; columns as wide as they must be."""
    rows = [[str(column.content(document)) for column in columns] for document in documents]
    lines = [[column.heading.upper() for column in columns], *rows]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in lines
    )


def _shown(document: Document) -> Document:
    shown: Document = printable_document(dict(document))
    return shown


def human_time(instant: str) -> str:
    """An instant of the REST interface to the second: ``2026-11-22T10:00:00Z``, as points take it.

    Rounded up, so that the point NAME@INSTANT of a snapshot's time is that snapshot.
    """
    at = datetime.fromisoformat(instant)
    whole = at.replace(microsecond=0) + timedelta(seconds=1 if at.microsecond else 0)
    return whole.astimezone(UTC).isoformat().replace("+00:00", "Z")
