"""Settings of a process: one frozen dataclass, read once from environment variables.

Field ``span_size_bytes_max`` of the chunker is ``BACKCAST_CHUNKER_SPAN_SIZE_BYTES_MAX``. A field
whose type is itself a settings dataclass is a group, and its name joins the prefix:
``postgres.pool_size_max`` is ``BACKCAST_CHUNKER_POSTGRES_POOL_SIZE_MAX``. A field of type `Secret`
names a file instead: ``kek`` is read from the file that ``BACKCAST_CHUNKER_KEK_FILE`` names, so
that no secret stands in an environment.

Wrong settings never fall back to something silently: everything that is wrong is reported at once.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from libs.errors import ConfigurationError

S = TypeVar("S")

#: A secret file larger than this is a mistake (a key, password or token list is far smaller).
SECRET_SIZE_BYTES_MAX = 65_536

_MISSING = dataclasses.MISSING


class Secret:
    """Text that must not be shown: it is read from a file, and only `reveal` gives it.

    Args:
        text: the secret, without surrounding white space.
        file: where it was read; None if it was made in the program.
    """

    __slots__ = ("_text", "file")

    def __init__(self, text: str, file: Path | None = None) -> None:
        self._text = text
        self.file = file

    def reveal(self) -> str:
        """The secret itself; hand it on, never keep or print it."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"


@dataclasses.dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable of a service: what the reference lists and what `load` reads."""

    #: Full name, such as BACKCAST_CHUNKER_POSTGRES_DSN_FILE.
    name: str
    #: Field names from the service's settings down to this field.
    path: tuple[str, ...]
    #: The settings class that has the field.
    owner: type
    #: Type of the field without ``| None``.
    kind: Any
    #: Value when the variable is not set; `dataclasses.MISSING` if it must be set.
    default: Any
    #: Whether the default is made anew by each process (``default_factory``), such as a host name.
    computed: bool

    @property
    def required(self) -> bool:
        """Whether the process refuses to start without it."""
        return self.default is _MISSING


def load(cls: type[S], service: str, environ: Mapping[str, str]) -> S:
    """Read the settings of ``service``.

    Args:
        cls: frozen dataclass; fields of type int, float, bool, str, Path, Literal, tuple of these
        (comma
            separated), `Secret`, or another such dataclass.
        service: name in the variables, in lower case: ``chunker`` reads BACKCAST_CHUNKER_*.
        environ: normally ``os.environ``; variables of other services are ignored.

    Raises:
        ConfigurationError: lists every variable that is unknown, missing or malformed, and never a
        value
            that may be secret.
    """
    known = list(variables(cls, service))
    problems = list(_unknown(known, service, environ))
    values: dict[tuple[str, ...], Any] = {}
    for variable in known:
        try:
            values[variable.path] = _value(variable, environ)
        except ValueError as err:
            problems.append(f"{variable.name}: {err}")
    if not problems:
        try:
            return _build(cls, values, ())
        except ValueError as err:
            problems.append(f"{_prefix(service)}*: {err}")
    raise ConfigurationError("; ".join(problems))


def variables(cls: type, service: str) -> Iterator[Variable]:
    """The environment variables of a settings class in the order of its fields."""
    return _variables(cls, _prefix(service), ())


def render(settings: object, service: str) -> str:
    """The effective values as an environment file; a secret's line names its file."""
    lines = []
    for variable in variables(type(settings), service):
        value: Any = settings
        for name in variable.path:
            value = getattr(value, name)
        lines.append(f"{variable.name}={as_text(value)}")
    return "\n".join(lines)


def secret_files(settings: object) -> Iterator[Path]:
    """The files that the secrets of some settings were read from."""
    for field in dataclasses.fields(typing.cast("Any", settings)):
        value = getattr(settings, field.name)
        if isinstance(value, Secret) and value.file:
            yield value.file
        elif dataclasses.is_dataclass(value):
            yield from secret_files(value)


def as_text(value: object) -> str:
    """A value as it would be written in the environment; secrets are masked."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case tuple():
            return ",".join(as_text(item) for item in value)
        case Secret():
            return str(value.file) if value.file else "***"
        case _:
            return str(value)


def _prefix(service: str) -> str:
    return f"BACKCAST_{service.upper()}_"


def _variables(cls: type, prefix: str, path: tuple[str, ...]) -> Iterator[Variable]:
    types_of = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind = _without_none(types_of[field.name])
        name, here = prefix + field.name.upper(), (*path, field.name)
        if dataclasses.is_dataclass(kind):
            yield from _variables(typing.cast("type", kind), f"{name}_", here)
            continue
        default, computed = field.default, False
        if field.default_factory is not _MISSING:
            default, computed = field.default_factory(), True
        name = f"{name}_FILE" if kind is Secret else name
        yield Variable(name, here, cls, kind, default, computed)


def _unknown(known: list[Variable], service: str, environ: Mapping[str, str]) -> Iterator[str]:
    names = [variable.name for variable in known]
    for name in sorted(environ):
        if name.startswith(_prefix(service)) and name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            yield f"{name}: unknown variable" + (f"; did you mean {near[0]}?" if near else "")


def _value(variable: Variable, environ: Mapping[str, str]) -> Any:
    text = environ.get(variable.name, "").strip()
    if text:
        return _parse(variable.kind, text)
    if variable.required:
        raise ValueError("must be set")
    return variable.default


def _build(cls: type[S], values: Mapping[tuple[str, ...], Any], path: tuple[str, ...]) -> S:
    types_of = typing.get_type_hints(cls)
    arguments = {}
    for field in dataclasses.fields(typing.cast("Any", cls)):
        here = (*path, field.name)
        arguments[field.name] = (
            values[here] if here in values else _build(types_of[field.name], values, here)
        )
    return cls(**arguments)


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (option for option in get_args(kind) if option is not type(None))
    return kind


def _parse(kind: Any, text: str) -> Any:
    if get_origin(kind) is Literal:
        return _choice(get_args(kind), text)
    if get_origin(kind) is tuple:
        return tuple(_parse(get_args(kind)[0], item.strip()) for item in text.split(",") if item)
    return _PARSERS[kind](text)


def _choice(options: tuple[str, ...], text: str) -> str:
    if text not in options:
        raise ValueError(f"expected one of {', '.join(options)}, got {text!r}")
    return text


def _boolean(text: str) -> bool:
    return _choice(("true", "false"), text.lower()) == "true"


def _integer(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise ValueError(f"expected a whole number, got {text!r}") from None
    return _not_negative(number)


def _real(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"expected a number, got {text!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, got {text!r}")
    return _not_negative(number)


N = TypeVar("N", int, float)


def _not_negative(number: N) -> N:
    """No size, count, duration or port is below zero."""
    if number < 0:
        raise ValueError(f"expected zero or more, got {number}")
    return number


def read_secret(name: str) -> Secret:
    """The secret in a file.

    Raises:
        ValueError: it cannot be read, or is no text, empty or too long.
    """
    file = Path(name)
    try:
        with file.open("rb") as opened:
            raw = opened.read(SECRET_SIZE_BYTES_MAX + 1)
    except OSError as err:
        raise ValueError(f"secret file {file}: {err.strerror}") from None
    if len(raw) > SECRET_SIZE_BYTES_MAX:
        raise ValueError(f"secret file {file}: larger than {SECRET_SIZE_BYTES_MAX} bytes")
    try:
        text = raw.decode().strip()
    except UnicodeDecodeError:
        raise ValueError(
            f"secret file {file}: expected text, got bytes that are not UTF-8"
        ) from None
    if not text:
        raise ValueError(f"secret file {file}: empty")
    return Secret(text, file)


_PARSERS: dict[Any, Callable[[str], Any]] = {
    int: _integer,
    float: _real,
    bool: _boolean,
    str: str,
    Path: Path,
    Secret: read_secret,
}
