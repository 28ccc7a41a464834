"""A second, empty catalog beside the live one: schema `backcast_check` of the same database."""

import contextlib
from collections.abc import Iterator
from importlib import resources

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from libs.catalogdb.connecting import connect
from libs.catalogdb.pool import Catalog, translated
from libs.errors import ConflictError
from libs.events.topics import RELAYED_TOPICS

_SCHEMA = "backcast_check"
#: Any number that only this uses: two comparisons at once would mix.
_LOCK = 0x63686563


@contextlib.contextmanager
def scratch_catalog(dsn: str) -> Iterator[Catalog]:
    """An empty catalog, in the catalog service's login; nothing of it is left afterwards.

    A process that was killed leaves its tables, which the next one removes.

    Raises:
        ConflictError: another process has it.
        UnavailableError: Postgres does not answer.
    """
    scratch = make_conninfo(dsn, options=f"-c search_path={_SCHEMA}")
    with translated(), connect(scratch, autocommit=True) as db:
        locked = db.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK]).fetchone()
        if not (locked and locked[0]):
            raise ConflictError("catalog: is being checked already; wait for that")
        _clear(db)
        schema = resources.files("libs.catalogdb") / "schema"
        for name in sorted(f.name for f in schema.iterdir() if f.name[:3].isdigit()):
            db.execute(schema.joinpath(name).read_bytes())
        for topic in RELAYED_TOPICS:
            db.execute("INSERT INTO log_position (topic) VALUES (%s)", [topic])
        catalog = Catalog(scratch, 4, "check")
        catalog.open()
        try:
            yield catalog
        finally:
            catalog.close()
            _clear(db)


def _clear(db: psycopg.Connection) -> None:
    tables = db.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [_SCHEMA])
    for (table,) in tables.fetchall():
        db.execute(sql.SQL("DROP TABLE IF EXISTS {} CASCADE").format(sql.Identifier(table)))
    sequences = db.execute("SELECT sequencename FROM pg_sequences WHERE schemaname = %s", [_SCHEMA])
    for (sequence,) in sequences.fetchall():
        db.execute(sql.SQL("DROP SEQUENCE IF EXISTS {} CASCADE").format(sql.Identifier(sequence)))
    functions = db.execute(
        """SELECT p.oid::regprocedure::text FROM pg_proc p
           JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = %s""",
        [_SCHEMA],
    )
    for (function,) in functions.fetchall():
        db.execute(f"DROP FUNCTION IF EXISTS {function} CASCADE".encode())
