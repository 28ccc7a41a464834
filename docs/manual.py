"""The manual page of the command, from its parser: ``man -l docs/reference/backcast.1``.

It says what ``--help`` says, in one page, as roff with the macros of man(7). There is no tool for
it, because the pages of docs/reference come from the same parser in the same way.
"""

import argparse
from collections.abc import Iterable, Iterator

#: An argument, as it is written, and what it means.
Argument = tuple[str, str]


def manual_page(
    parser: argparse.ArgumentParser,
    commands: Iterable[tuple[str, str, str, list[Argument]]],
    statuses: Iterable[tuple[int, str]],
) -> str:
    """The page as roff.

    Args:
        parser: the whole command line.
        commands: of each subcommand its name, what it does, its usage, and its arguments.
        statuses: exit statuses, and what they mean.
    """
    name = parser.prog
    lines = [
        f'.TH {name.upper()} 1 "" "Backcast" "User Commands"',
        ".SH NAME",
        rf"{name} \- protects volumes and gives back any recovery point",
        ".SH SYNOPSIS",
        f".B {name}",
        r"[\fIOPTIONS\fR] \fICOMMAND\fR \fR...",
        ".SH DESCRIPTION",
        _text(parser.description or ""),
        ".SH COMMANDS",
    ]
    for command, what, usage, arguments in commands:
        lines += [f".SS {_text(command)}", _text(what), ".PP", rf"\fB{_text(usage)}\fR"]
        lines += _listed(arguments)
    lines += [".SH EXIT STATUS", *_listed((str(status), what) for status, what in statuses)]
    lines += [".SH ENVIRONMENT", _text(parser.epilog or "")]
    return "\n".join(lines) + "\n"


def _listed(rows: Iterable[Argument]) -> Iterator[str]:
    for term, what in rows:
        yield ".TP"
        yield rf"\fB{_text(term)}\fR"
        yield _text(what)


def _text(text: str) -> str:
    """Text that roff takes for nothing else: no escapes, no requests at the beginning of a line."""
    one_line = " ".join(text.split())
    escaped = one_line.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")
    ascii_text = "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in escaped)
    return rf"\&{ascii_text}" if ascii_text.startswith(".") else ascii_text
