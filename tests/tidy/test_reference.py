import argparse
import json
import re
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from fastapi import FastAPI

from docs import generate
from docs.attributes import attributes_of
from docs.event_reference import asyncapi_document, events_page
from docs.generate import ROOT
from docs.markdown import table
from libs.events.block_changes import ExtentsChanged
from libs.events.codec import encode
from libs.ranges import ChunkRun, pack_runs


@dataclass
class Base:
    #: First of all,
    #: over two lines.
    first: int = 0


@dataclass
class Child(Base):
    second: str | None = None  # not a documenting comment


def test_fields_come_with_their_comments_inherited_ones_first() -> None:
    first, second = attributes_of(Child).values()
    assert (first.name, first.text, first.comment) == (
        "first",
        "int",
        "First of all, over two lines.",
    )
    assert (second.name, second.text, second.comment) == ("second", "str | None", "")


def test_a_cell_cannot_break_its_table() -> None:
    assert table(("a", "b"), [("x|y", "1\n2")]).split("\n")[-1] == "| x\\|y | 1 2 |"


def test_the_asyncapi_document_says_where_its_topics_are() -> None:
    document = json.loads(asyncapi_document())
    for server in document["servers"].values():
        named = re.findall(r"{([a-z]+)}", server["host"])
        assert server["protocol"] in ("kafka", "kafka-secure")
        assert set(named) == server["variables"].keys()


def test_what_the_reference_says_of_runs_decodes_them() -> None:
    """The example of the page, run on an event as agents write it."""
    (example,) = re.findall(r"```python\n(.*?)```", events_page(), re.DOTALL)
    event = ExtentsChanged(
        session=UUID(int=1),
        capture=UUID(int=2),
        volume=UUID(int=3),
        batch=0,
        runs=pack_runs([ChunkRun(5, 2), ChunkRun(900, 1)]),
        ids=b"a" * 32 + b"b" * 32 + b"c" * 32,
        zero_runs=b"",
        settled_below=6,
    )
    scope: dict[str, Any] = {"record": types.SimpleNamespace(value=encode(event))}
    exec(example, scope)
    assert scope["changed"] == {5: b"a" * 32, 6: b"b" * 32, 900: b"c" * 32}


def test_metrics_have_in_the_documents_the_names_that_they_are_exposed_by() -> None:
    code = "".join(file.read_text() for file in sorted(ROOT.glob("[ls]*s/**/*.py")))
    counters = set(re.findall(r'[cC]ounter\(\s*"(?:backcast_[a-z]+_)?([a-z_]+)"', code))
    gauges = set(re.findall(r'[gG]auge\(\s*"(?:backcast_[a-z]+_)?([a-z_]+)"', code))
    assert counters
    assert gauges
    named = set()
    for page in ROOT.glob("docs/*.md"):
        named |= set(
            re.findall(r"`backcast_(?:catalog|chunker|restore)_([a-z_]+)`", page.read_text())
        )
    assert named <= {f"{name}_total" for name in counters} | gauges


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    document = json.loads(asyncapi_document())

    def follow(node: Any) -> int:
        if isinstance(node, list):
            return sum(follow(child) for child in node)
        if not isinstance(node, dict):
            return 0
        if isinstance(target := node.get("$ref"), str):
            place: Any = document
            for part in target.removeprefix("#/").split("/"):
                place = place[part]
            return 1
        return sum(follow(child) for child in node.values())

    assert follow(document) > len(document["components"]["messages"])


def test_routes_are_described_without_what_they_work_with() -> None:
    def add_routes(app: FastAPI, catalog: Callable[[], int]) -> None:
        @app.get("/v1/count")
        def count() -> int:
            return catalog()

    module = types.ModuleType("services.tried.routes")
    module.add_routes = add_routes  # type: ignore[attr-defined]  # a module made for the test
    document = json.loads(generate.openapi_document(module))
    assert document["info"]["title"] == "Backcast tried"
    assert "/v1/count" in document["paths"]


def test_the_page_of_a_command_lists_its_subcommands_and_arguments() -> None:
    parser = argparse.ArgumentParser(prog="tried")
    restore = parser.add_subparsers().add_parser("restore", description="Gives back.")
    restore.add_argument("point", help="NAME@POINT")
    page = generate.command_page(parser)
    assert "## tried restore" in page
    assert "| `point` | NAME@POINT |" in page


def test_check_fails_on_a_stale_page_and_writes_nothing(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(generate, "REFERENCE", tmp_path)
    monkeypatch.setattr(generate, "all_pages", lambda: iter([("a.md", "new")]))
    (tmp_path / "gone.md").write_text("no longer generated")
    monkeypatch.setattr(sys, "argv", ["generate", "--check"])
    assert generate.main() == 1
    assert [file.name for file in tmp_path.iterdir()] == ["gone.md"]
    monkeypatch.setattr(sys, "argv", ["generate"])
    assert generate.main() == 0
    assert [file.name for file in tmp_path.iterdir()] == ["a.md"]
    monkeypatch.setattr(sys, "argv", ["generate", "--check"])
    assert generate.main() == 0
    assert "make docs" in capsys.readouterr().out
