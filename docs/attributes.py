"""Reads what stands beside fields in the source: annotations as written and ``#:`` comments."""

import ast
import inspect
import textwrap
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True, slots=True)
class Attribute:
    """A field of a class, or a constant of a module, as its source has it."""

    name: str
    #: The annotation of a field; the value of a constant.
    text: str
    #: The comment above it as one paragraph; empty if there is none.
    comment: str


def attributes_of(subject: type | ModuleType) -> dict[str, Attribute]:
    """The annotated fields of a class, inherited ones first, or the constants of a module."""
    if isinstance(subject, ModuleType):
        source = inspect.getsource(subject)
        return {one.name: one for one in _read(source, ast.parse(source).body)}
    found: dict[str, Attribute] = {}
    for cls in reversed(subject.__mro__[:-1]):
        source = textwrap.dedent(inspect.getsource(cls))
        (definition,) = ast.parse(source).body
        assert isinstance(definition, ast.ClassDef)
        found |= {one.name: one for one in _read(source, definition.body)}
    return found


def paragraphs_of(subject: object) -> str:
    """The docstring with its indentation and line breaks inside paragraphs removed."""
    paragraphs = inspect.cleandoc(subject.__doc__ or "").split("\n\n")
    return "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)


def summary_of(subject: object) -> str:
    """The first paragraph of the docstring."""
    return paragraphs_of(subject).partition("\n\n")[0]


def _read(source: str, body: list[ast.stmt]) -> list[Attribute]:
    lines = source.split("\n")
    found = []
    for node in body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation):
                text = ast.unparse(annotation)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                text = ast.unparse(value)
            case _:
                continue
        found.append(Attribute(name, text, _comment_above(lines, node.lineno)))
    return found


def _comment_above(lines: list[str], line_number: int) -> str:
    comment: list[str] = []
    for line in reversed(lines[: line_number - 1]):
        if not line.strip().startswith("#:"):
            break
        comment.insert(0, line.strip().removeprefix("#:").strip())
    return " ".join(comment)
