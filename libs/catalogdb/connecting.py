"""The one way to connect to Postgres: each connection brings the settings that our code relies on.

``ALTER DATABASE … SET`` and ``ALTER ROLE … SET`` are for people and other programs. With a German
DateStyle the driver cannot read a time; with another default isolation our row locks would not do
what they are for. What a connection asks for when it starts takes precedence over both.
"""

from typing import Any

import psycopg
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow

from libs.errors import ConfigurationError

#: Where the connection string may ask for something else in its ``options``.
_DEFAULTS = {
    "search_path": "public",
    "statement_timeout": "0",  # reconciling a large catalog has statements that take minutes
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",  # a checkpoint is read in one transaction
    "idle_session_timeout": "0",
    "default_transaction_read_only": "off",
}
_FIXED = {
    # How values are written and read.
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
    # What a transaction is. `libs.catalogdb` argues each statement's snapshot from READ COMMITTED.
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    # A policy of rows must end a statement with an error, and never hide rows from it.
    "row_security": "off",
    # What was committed is acknowledged to others at once, so it must not be lost by a power cut.
    "synchronous_commit": "on",
    # What is looked up is in memory or on flash, but Postgres' default is a disk's seek. With that,
    # it reads a whole chunk index of up to 150,000 rows for each look-up of 512 ids: 10 ms, not 2.
    "random_page_cost": "1.1",
}
_ENCODING = "UTF8"
#: For each address of the server. By default a connection to a host that vanished is waited for for
#: 130 s, and the services would be away for so long after the host is back.
_CONNECT_SECONDS_MAX = 10
#: Settings whose values the server tells by itself.
_REPORTED = ("DateStyle", "IntervalStyle", "TimeZone", "standard_conforming_strings")


def connection_arguments(dsn: str) -> dict[str, Any]:
    """What `psycopg.connect` and a pool are given besides the connection string."""
    given = conninfo_to_dict(dsn)
    own = given.get("options") or ""
    return {
        "client_encoding": _ENCODING,
        "connect_timeout": given.get("connect_timeout") or _CONNECT_SECONDS_MAX,
        "options": f"{_options(_DEFAULTS)} {own} {_options(_FIXED)}",
        # A server that vanished without a word is noticed within a minute, and not after two hours.
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }


def connect(dsn: str, *, autocommit: bool = False) -> Connection[TupleRow]:
    """A connection outside of the pool.

    Raises:
        ConfigurationError: see `check_session`.
        psycopg.OperationalError: Postgres does not answer, or refuses the login.
    """
    connection = psycopg.connect(dsn, autocommit=autocommit, **connection_arguments(dsn))
    try:
        check_session(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def check_session(connection: Connection[Any]) -> None:
    """Refuse a connection that does not have our settings, or whose database we cannot use.

    Raises:
        ConfigurationError: the database has another encoding than UTF-8, or something between us
            and the server, such as a pooler or a PG* variable, has put its own settings first.
    """
    encoding = _reported(connection, "server_encoding")
    if encoding != _ENCODING:
        raise ConfigurationError(
            f"database {connection.info.dbname}: its encoding is {encoding}, expected {_ENCODING}, "
            f"because names and paths may have any character; make another database with "
            f"CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )
    for name in _REPORTED:
        got = _reported(connection, name)
        if got != _FIXED[name]:
            raise ConfigurationError(
                f"database {connection.info.dbname}: {name} is {got!r} although the connection "
                f"asks for {_FIXED[name]!r}; is PGDATESTYLE, PGTZ or PGOPTIONS set, or does a "
                f"pooler ignore the startup parameter `options`?"
            )


def _options(settings: dict[str, str]) -> str:
    """As libpq takes them; a blank within a value is escaped."""
    escaped = {name: value.replace(" ", r"\ ") for name, value in settings.items()}
    return " ".join(f"-c {name}={value}" for name, value in escaped.items())


def _reported(connection: Connection[Any], name: str) -> str:
    return (connection.pgconn.parameter_status(name.encode()) or b"").decode()
