"""Events that Hypothesis makes up from the fields' own types and bounds."""

import dataclasses
import types
import typing
from typing import Any, Literal, cast
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec import Meta

from libs.events.block_changes import ExtentsChanged, UnchangedSampled
from libs.events.registry import REGISTRY
from libs.ranges import pack_runs, runs_of

_LENGTH_DEFAULT_MAX = 200


def any_event() -> SearchStrategy[Any]:
    """Any event of any registered type."""
    return st.one_of([_event(entry.cls) for entry in REGISTRY.events])


def _event(cls: type[Any]) -> SearchStrategy[Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {field.name: _value(hints[field.name]) for field in dataclasses.fields(cls)}
    if cls in (ExtentsChanged, UnchangedSampled):
        return st.sets(st.integers(0, 5000), max_size=64).flatmap(
            lambda indexes: _batch(cls, fields, sorted(indexes))
        )
    return st.builds(cls, **fields)


def _batch(cls: type[Any], fields: dict[str, Any], indexes: list[int]) -> SearchStrategy[Any]:
    size = 32 * len(indexes)
    columns = {
        "runs": st.just(pack_runs(runs_of(indexes))),
        "ids": st.binary(min_size=size, max_size=size),
        "zero_runs": st.just(pack_runs(runs_of(index + 6000 for index in indexes))),
        "tags": st.just(b"")
        | st.binary(min_size=len(indexes), max_size=len(indexes)).filter(
            lambda tags: bool(tags.strip(b"\0"))
        )
        if indexes
        else st.just(b""),
    }
    return st.builds(cls, **fields | {name: columns[name] for name in columns.keys() & fields})


def _value(hint: Any) -> SearchStrategy[Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _bounded(arguments[0], next(a for a in arguments[1:] if isinstance(a, Meta)))
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is types.UnionType or origin is typing.Union:
        return st.one_of([_value(argument) for argument in arguments])
    if origin is tuple:
        return st.lists(_value(arguments[0]), max_size=3).map(tuple)
    if dataclasses.is_dataclass(hint):
        return _event(cast("type[Any]", hint))
    simple = {UUID: st.uuids(), bool: st.booleans(), bytes: st.binary(), type(None): st.none()}
    return simple[hint]


def _bounded(plain: Any, meta: Meta) -> SearchStrategy[Any]:
    if typing.get_origin(plain) is tuple:
        return _value(plain)
    if plain is int:
        return st.integers(cast("int", meta.ge), cast("int", meta.le))
    if plain is float:
        return st.floats(meta.ge, meta.le)
    length_max = min(meta.max_length or _LENGTH_DEFAULT_MAX, _LENGTH_DEFAULT_MAX)
    if plain is bytes:
        return st.binary(min_size=meta.min_length or 0, max_size=length_max)
    text = st.characters(exclude_categories=["Cs"])
    return st.text(text, min_size=meta.min_length or 0, max_size=length_max)
