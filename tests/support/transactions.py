"""Transactions of all services, as Postgres logs them: how many, whose, and what for.

Postgres is told to log every statement. So nothing depends on what a service believes it does: each
connection's BEGIN to COMMIT is one transaction, and a statement outside of that is one, too.
"""

import ast
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import psycopg

from libs.catalogdb.migrate import SERVICE_ROLES
from libs.ids import uuid7
from tests.support.running import RunningSite

_LINE = re.compile(
    r"^\d{4}-\d\d-\d\d [\d:.]+ UTC \[(?P<pid>\d+)\] (?P<user>[^@]*)@\S* "
    r"LOG:  (?:statement|execute [^:]+): (?P<sql>.*)$"
)
#: The beginning of any other entry of the log.
_ENTRY = re.compile(r"^\d{4}-\d\d-\d\d [\d:.]+ UTC \[\d+\] ")
_PARAMETER = re.compile(r"%\(\w+\)s|%s|\$\d+")
_SQL = re.compile(r"^(SELECT|INSERT|UPDATE|DELETE|WITH|COPY)\b")
#: A shorter beginning names no statement.
_PREFIX_MIN = 20
#: Functions with SQL that many transactions share.
_SHARED = {
    *("require_reconciled", "require_open", "_lock_open", "append", "_advance"),
    *("notify_session", "_lock_session"),
}


@dataclass(frozen=True)
class Transaction:
    """One transaction of one service."""

    service: str
    #: Function of `libs.catalogdb` that made it; or its first statement, if that is unknown.
    name: str


@dataclass
class Watched:
    """What was counted."""

    transactions: list[Transaction] = field(default_factory=list)

    def by_name(self) -> Counter[Transaction]:
        """How many of each."""
        return Counter(self.transactions)

    def of(self, *services: str) -> int:
        """How many of some services."""
        return sum(one.service in services for one in self.transactions)


@contextmanager
def watching(site: RunningSite) -> Iterator[Watched]:
    """Count the transactions of all services while the block runs."""
    watched = Watched()
    log = site.server("postgres").process.log_file
    _set(site, "log_statement", "all")
    begun = _mark(site)
    try:
        yield watched
    finally:
        ended = _mark(site)
        _set(site, "log_statement", "none")
    text = log.read_text(errors="replace")
    between = text[text.index(begun) : text.index(ended)]
    watched.transactions = list(_transactions(_statements(between.splitlines())))


def _set(site: RunningSite, name: str, value: str) -> None:
    with psycopg.connect(site.cluster.postgres.dsn, autocommit=True) as db:
        db.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
        db.execute("SELECT pg_reload_conf()")
    deadline = time.monotonic() + 10
    while site.sql(f"SHOW {name}") != [(value,)]:
        assert time.monotonic() < deadline, f"{name} is not {value}"


def _mark(site: RunningSite) -> str:
    """Something that stands in the log from here on."""
    mark = f"mark {uuid7()}"
    log = site.server("postgres").process.log_file
    deadline = time.monotonic() + 10
    while mark not in log.read_text(errors="replace"):
        assert time.monotonic() < deadline, "the log does not show our statement"
        site.sql(f"SELECT '{mark}'")
    return mark


def _statements(lines: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """(connection, login, SQL on one line) of each statement."""
    open_: tuple[str, str, str] | None = None
    for line in lines:
        found = _LINE.match(line)
        if found or _ENTRY.match(line):
            if open_:
                yield open_
            open_ = (found["pid"], found["user"], found["sql"]) if found else None
        elif open_:
            open_ = (*open_[:2], f"{open_[2]} {line}")
    if open_:
        yield open_


def _transactions(statements: Iterable[tuple[str, str, str]]) -> Iterator[Transaction]:
    under_way: dict[str, list[str]] = {}
    for connection, login, sql in statements:
        if login not in SERVICE_ROLES:
            continue
        verb, service = sql.split(None, 1)[0].upper().rstrip(";"), login
        if verb == "BEGIN":
            under_way[connection] = []
        elif verb in ("COMMIT", "ROLLBACK"):
            yield Transaction(service, _name(under_way.pop(connection, [])))
        elif connection in under_way:
            under_way[connection].append(sql)
        else:
            yield Transaction(service, _name([sql]))


def _name(statements: list[str]) -> str:
    names = [_function(_normal(sql)) for sql in statements]
    own = [name for name in names if name not in _SHARED]
    if own and own[0] == "_FIND":  # three functions begin with it
        if "damage" in statements[-1]:
            return "lookup_and_pin"
        return "find_item" if len(statements) > 1 else "count_each_by_pack"
    return (own or names or ["nothing"])[0]


def _normal(sql: str) -> str:
    return re.sub(r"\s+", " ", _PARAMETER.sub("?", sql)).strip()


def _function(statement: str) -> str:
    """The function of `libs.catalogdb` that has most of a statement's beginning."""
    fitting = [begin for begin in _functions() if statement.startswith(begin)]
    return _functions()[max(fitting, key=len)] if fitting else statement[:60]


@cache
def _functions() -> dict[str, str]:
    """Beginning of a statement → function of `libs.catalogdb` that has it."""
    found: dict[str, str] = {}
    for path in sorted(Path("libs/catalogdb").rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            name = getattr(node, "name", None) or ast.unparse(node)[:40].partition(" ")[0]
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    sql = _normal(part.value)
                    if len(sql.partition("{")[0]) >= _PREFIX_MIN and _SQL.match(sql):
                        found.setdefault(sql.partition("{")[0], name)
    return found
