"""Rows by name: what a statement returns becomes objects whose fields are named as its columns.

A row that becomes an object by position hides two swapped columns of one type from everybody. Where
every millisecond counts (look-ups of thousands of ids) rows stay tuples, with named locals.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import LiteralString, TypeVar

from psycopg import sql
from psycopg.rows import kwargs_row

from libs.catalogdb.pool import Tx

T = TypeVar("T")
_Query = LiteralString | sql.SQL | sql.Composed
_Values = Sequence[object] | Mapping[str, object] | None


def all_rows(tx: Tx, make: Callable[..., T], query: _Query, values: _Values = None) -> list[T]:
    """Every row as what ``make`` gives: a class or function that takes columns by their names."""
    with tx.cursor(row_factory=kwargs_row(make)) as cursor:
        return cursor.execute(query, values).fetchall()


def one_row(tx: Tx, make: Callable[..., T], query: _Query, values: _Values = None) -> T | None:
    """The first row as what ``make`` gives, or None where there is none."""
    with tx.cursor(row_factory=kwargs_row(make)) as cursor:
        return cursor.execute(query, values).fetchone()
