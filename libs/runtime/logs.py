"""Logs on stderr: one JSON object per line for machines, one readable line on a terminal.

Write ``log.info("sealed", extra={"sequence": 12})``: the message is a constant, the facts are
fields. What holds for a stretch of work (session, volume, capture) is set once by `log_context` and
joins every line in between.
"""

import contextlib
import contextvars
import json
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, TextIO

from libs.printable import printable, printable_lines

_context: contextvars.ContextVar[Mapping[str, object]] = contextvars.ContextVar(
    "log context", default=MappingProxyType({})
)
#: Attributes that every record has; what else a record carries was given as a field.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",  # Python 3.12 and later
    "color_message",  # uvicorn repeats its message in it
}
#: A field whose name contains one of these is never written, whatever put it there.
_SECRET_WORDS = ("password", "secret", "token", "authorization", "credential", "dsn")
#: Libraries that say at INFO what only their developers need.
_TALKATIVE = ("aiokafka", "urllib3", "uvicorn", "asyncio")
#: The same sentence of theirs is logged once in so long.
_REPEATED_SECONDS = 30.0
#: Sentences that are remembered.
_REMEMBERED_MAX = 256


def configure_logs(service: str, level: str = "info", stream: TextIO | None = None) -> None:
    """Send all logs of the process to ``stream`` (stderr if None). Called once, by the runtime.

    Args:
        service: name that every line carries.
        level: debug, info, warning or error.
        stream: JSON lines are written unless it is a terminal.
    """
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    handler.addFilter(RepetitionFilter(time.monotonic))
    handler.setFormatter(ReadableFormatter() if target.isatty() else JsonFormatter(service))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    if level != "debug":
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)


@contextlib.contextmanager
def log_context(**fields: object) -> Iterator[None]:
    """Add ``fields`` to every line that is logged inside, in this thread or task.

    asyncio tasks inherit the context. A thread pool does not: submit
    ``contextvars.copy_context().run``.
    """
    token = _context.set({**_context.get(), **fields})
    try:
        yield
    finally:
        _context.reset(token)


class RepetitionFilter(logging.Filter):
    """Holds back what a library says again and again: aiokafka 0.14 can fill a disk with it.

    While a topic is missing its producer logs the same sentence 700 times a second. The first one
    is let through, and one each `_REPEATED_SECONDS`, which says how many it stands for. What our
    own code logs is never held back.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        #: Logger, level and sentence → when it was let through last, and how often not since.
        self._said: dict[tuple[str, int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log the record; may add the field ``repeated``."""
        if not record.name.startswith(_TALKATIVE):
            return True
        key, now = (record.name, record.levelno, record.getMessage()), self._clock()
        with self._lock:
            at, held_back = self._said.get(key, (-math.inf, 0))
            if now - at < _REPEATED_SECONDS:
                self._said[key] = (at, held_back + 1)
                return False
            if len(self._said) >= _REMEMBERED_MAX:
                self._said.clear()
            self._said[key] = (now, 0)
        if held_back:
            record.repeated = held_back
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time (UTC), level, service, logger, message, fields, error."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: dict[str, object] = {
            "time": _time_of(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields_of(record),
        }
        if record.exc_info and record.exc_info[0]:
            line["error"] = record.exc_info[0].__name__
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class ReadableFormatter(logging.Formatter):
    """``12:00:01.123 INFO    chunker.session  sealed  sequence=12``, then the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, and a traceback below it."""
        fields = "".join(f"  {name}={value}" for name, value in _fields_of(record).items())
        time = _time_of(record).astimezone().isoformat(timespec="milliseconds")[11:23]
        line = f"{time} {record.levelname:<7} {record.name}  {record.getMessage()}{fields}"
        # What others named or sent must not move the cursor or forge a line.
        line = printable(line)
        if record.exc_info:
            line += "\n" + printable_lines(self.formatException(record.exc_info))
        return line


def _time_of(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    given = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    return {
        name: "***" if any(word in name.lower() for word in _SECRET_WORDS) else value
        for name, value in {**_context.get(), **given}.items()
    }
