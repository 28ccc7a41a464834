"""Writes ``docs/reference`` from the code, where each of its facts stands once.

    python -m docs.generate            # write
    python -m docs.generate --check    # compare only; exit status 1 if a page is stale

Found by their place, and named after the folder they stand in: classes ``Settings`` of
``services/**/settings.py``, endpoints that ``add_routes(app, …)`` of ``services/**/routes.py``
adds, and the command that ``build_parser()`` of ``services/**/parser.py`` makes.
"""

import argparse
import importlib
import inspect
import json
import pkgutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import libs
from docs.attributes import attributes_of, paragraphs_of, summary_of
from docs.event_reference import asyncapi_document, events_page
from docs.manual import manual_page
from docs.markdown import table
from libs.errors import BackcastError
from libs.rest.server import create_app
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry
from libs.runtime.service import UNEXPECTED_EXIT_CODE
from libs.runtime.settings import Secret, Variable, as_text, variables
from services.cli.__main__ import BROKEN_PIPE_EXIT_CODE
from services.cli.commands.health.status import NOT_WELL_EXIT_CODE
from services.cli.entry import INTERRUPTED_EXIT_CODE

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"

_ERRORS_INTRODUCTION = f"""\
# Errors

A REST response that is not a success carries a problem document (RFC 9457,
`application/problem+json`) with `type`, `title`, `status`, `detail`, `code` and `retriable`. A
command or service ends with the exit status: 0 after success, {UNEXPECTED_EXIT_CODE} after an error
that nobody foresaw. A command ends with {INTERRUPTED_EXIT_CODE} after Ctrl-C at any moment, with
{BROKEN_PIPE_EXIT_CODE} when nobody reads its output any more; wrong arguments are bad input. Codes
never change; decide by them, not by the text. With `--json` a command's error is an object with
`code` and `message` on standard error.

"""
_CONFIGURATION_INTRODUCTION = """\
Services read environment variables. Unknown ones of their own prefix are refused, secrets come from
files, and `--print-config` shows what is in effect. Variables without a default must be set."""

_KINDS: dict[Any, str] = {
    int: "whole number",
    float: "number",
    bool: "true or false",
    str: "text",
    Path: "path",
    Secret: "path of a file with the secret",
}


def main() -> int:
    """Write or check all pages; the exit status."""
    parser = argparse.ArgumentParser(description="Writes docs/reference from the code.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    pages = dict(all_pages())
    REFERENCE.mkdir(exist_ok=True)
    present = {file.name: file.read_text() for file in REFERENCE.iterdir()}
    stale = sorted(
        name for name in pages.keys() | present.keys() if pages.get(name) != present.get(name)
    )
    for name in stale:
        print(f"docs/reference/{name}: {'not what the code says' if check else 'written'}")
        if not check:
            _replace(REFERENCE / name, pages.get(name))
    if check and stale:
        print("run: make docs")
    return 1 if check and stale else 0


def all_pages() -> Iterator[tuple[str, str]]:
    """File name and text of each page."""
    yield "errors.md", errors_page()
    yield "configuration.md", configuration_page()
    yield "events.md", events_page()
    yield "asyncapi.json", asyncapi_document()
    for module in _modules_named("parser"):
        yield f"{_service_of(module)}.md", command_page(module.build_parser())
        yield f"{module.build_parser().prog}.1", command_manual(module.build_parser())
    for module in _modules_named("routes"):
        yield f"openapi-{_service_of(module)}.json", openapi_document(module)


def errors_page() -> str:
    """Every error, as REST problems and the command's exit statuses show it."""
    for module in pkgutil.walk_packages(libs.__path__, "libs."):
        importlib.import_module(module.name)
    rows = [
        (
            f"`{cls.code}`",
            f"{'· ' * depth}{cls.__name__}",
            str(cls.http_status),
            str(cls.exit_code),
            "yes" if cls.retriable else "no",
            summary_of(cls),
        )
        for depth, cls in _descendants(BackcastError, 0)
    ]
    return (
        _ERRORS_INTRODUCTION
        + table(("code", "error", "HTTP status", "exit status", "retriable", "meaning"), rows)
        + "\n"
    )


def configuration_page() -> str:
    """Every environment variable of every service."""
    parts = [
        "# Configuration",
        _CONFIGURATION_INTRODUCTION,
    ]
    for module in _modules_named("settings"):
        settings: type = module.Settings
        service = _service_of(module)
        rows = [
            (f"`{one.name}`", _kind(one.kind), _default(one), _meaning(one))
            for one in variables(settings, service)
        ]
        parts += [
            f"## {service}",
            paragraphs_of(settings),
            table(("variable", "value", "default", "meaning"), rows),
        ]
    return "\n\n".join(parts) + "\n"


def openapi_document(routes: types.ModuleType) -> str:
    """The OpenAPI document of a service, from the same routes that it serves."""
    service = _service_of(routes)
    app = create_app(f"Backcast {service}", ServiceSettings(), Health(), new_registry())
    # What routes work with is not needed to describe them.
    others = [None] * (len(inspect.signature(routes.add_routes).parameters) - 1)
    routes.add_routes(app, *others)
    return json.dumps(app.openapi(), indent=2) + "\n"


def command_page(parser: argparse.ArgumentParser) -> str:
    """Every subcommand with its arguments."""
    parts = [f"# The command {parser.prog}", parser.description or ""]
    for one in _commands(parser):
        parts += [f"## {one.prog}", one.description or "", "```\n" + _usage(one) + "\n```"]
        rows = [(f"`{name}`", meaning) for name, meaning in _arguments(one)]
        if rows:
            parts.append(table(("argument", "meaning"), rows))
    return "\n\n".join(part for part in parts if part) + "\n"


def command_manual(parser: argparse.ArgumentParser) -> str:
    """The same as a page of the manual, with the exit statuses."""
    commands = [
        (one.prog, one.description or "", _usage(one), list(_arguments(one)))
        for one in _commands(parser)
    ]
    statuses: dict[int, str] = {0: "Success.", NOT_WELL_EXIT_CODE: "`status` found a problem."}
    for _, cls in _descendants(BackcastError, 0):
        statuses.setdefault(cls.exit_code, summary_of(cls))
    statuses[UNEXPECTED_EXIT_CODE] = "An error that nobody foresaw."
    statuses[INTERRUPTED_EXIT_CODE] = "Ctrl-C, or a question that was answered with no."
    statuses[BROKEN_PIPE_EXIT_CODE] = "Nobody reads the output any more."
    return manual_page(parser, commands, sorted(statuses.items()))


def _arguments(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Each argument of a command, as it is written, and what it means."""
    help_of = parser._get_formatter()._expand_help  # noqa: SLF001 -- what --help shows: one % for %%
    for action in parser._actions:  # noqa: SLF001 -- argparse has no public way to list arguments
        if action.dest != "help" and action.help not in (None, argparse.SUPPRESS):
            name = ", ".join(action.option_strings) or action.metavar or action.dest
            yield str(name), help_of(action)


def _replace(file: Path, text: str | None) -> None:
    if text is None:
        file.unlink()
    else:
        file.write_text(text)


def _modules_named(name: str) -> list[Any]:
    files = sorted((ROOT / "services").rglob(f"{name}.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    return [importlib.import_module(module) for module in names]


def _service_of(module: types.ModuleType) -> str:
    return module.__name__.split(".")[-2]


def _descendants(cls: type[BackcastError], depth: int) -> Iterator[tuple[int, type[BackcastError]]]:
    for child in cls.__subclasses__():
        yield depth, child
        yield from _descendants(child, depth + 1)


def _kind(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(f"`{option}`" for option in get_args(kind))
    if get_origin(kind) is tuple:
        return f"list of {_kind(get_args(kind)[0])}, separated by commas"
    return _KINDS[kind]


def _default(variable: Variable) -> str:
    if variable.required:
        return ""
    if variable.computed:
        return "computed at start"
    return f"`{as_text(variable.default)}`" if variable.default not in (None, ()) else "none"


def _meaning(variable: Variable) -> str:
    return attributes_of(variable.owner)[variable.path[-1]].comment


def _commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of the commands that run, in the order in which help shows them."""
    groups = [
        action
        for action in parser._actions  # noqa: SLF001 -- argparse has no public way to list commands
        if isinstance(action, argparse._SubParsersAction)  # noqa: SLF001 -- the same
    ]
    for group in groups:
        for child in dict.fromkeys(group.choices.values()):
            yield from _commands(child)
    if not groups:
        yield parser


def _usage(parser: argparse.ArgumentParser) -> str:
    return " ".join(parser.format_usage().removeprefix("usage:").split())


if __name__ == "__main__":
    sys.exit(main())
