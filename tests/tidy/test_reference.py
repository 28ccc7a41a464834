import argparse
import json
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from docs import generate
from docs.attributes import attributes_of
from docs.event_reference import asyncapi_document
from docs.markdown import table


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
