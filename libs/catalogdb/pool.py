"""The connection pool and the one way to run a transaction."""

import contextlib
import select
from collections.abc import Iterator
from typing import LiteralString

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolTimeout

from libs.catalogdb.connecting import check_session, connect, connection_arguments
from libs.catalogdb.packs.ids import teach_arrays
from libs.errors import BadInputError, InvariantViolation, OutOfSpaceError, UnavailableError

Tx = Connection[TupleRow]

#: SQLSTATE classes after which the same call may succeed: connection lost, serialization failure or
#: deadlock, resources, operator intervention (fail-over), system errors.
_RETRIABLE_CLASSES = ("08", "40", "53", "57", "58")
#: A fail-over left us connected to a server that is a standby now.
_READ_ONLY = "25006"
_OUT_OF_SPACE = "53100"


#: The pool doubles the pauses between its tries to connect. After so long it gives up, and the next
#: caller makes it begin anew: so no pause is longer than 8 s, and services are back soon after
#: Postgres is. With the default of 300 s they were not for 23 s after an outage of 96 s.
_RECONNECT_SECONDS_MAX = 10.0

#: Less than `libs.runtime.health.READY_SECONDS_MAX`, so that the reason is known in time.
_ASK_SECONDS_MAX = 2.0

#: How patient a service is whose work runs in the background: an outage of Postgres that is shorter
#: ends no session.
PATIENCE_SECONDS = 60.0


class Catalog:
    """A bounded pool of connections to one catalog. Safe to share between threads.

    Args:
        dsn: libpq connection string; it may hold a password and is never printed.
        size_max: connections kept at most.
        application: what Postgres shows as the name of the connections.
        wait_seconds: how long a caller waits for a free and working connection.
        patience_seconds: how long what is declared `idempotent` is tried again while the catalog
            does not answer; 0: it is called once.
    """

    def __init__(
        self,
        dsn: str,
        size_max: int = 8,
        application: str = "backcast",
        wait_seconds: float = 30,
        patience_seconds: float = 0.0,
    ) -> None:
        self.patience_seconds = patience_seconds
        self._pool: ConnectionPool[Tx] = ConnectionPool(
            dsn,
            min_size=1,
            max_size=size_max,
            timeout=wait_seconds,
            reconnect_timeout=_RECONNECT_SECONDS_MAX,
            open=False,
            kwargs={
                **connection_arguments(dsn),
                "application_name": application,
                "prepare_threshold": 2,
            },
            configure=_prepare,
            check=_check_quiet,
        )
        self._dsn = dsn

    def open(self, timeout_seconds: float = 30) -> None:
        """Connect.

        Raises:
            UnavailableError: the catalog does not answer in time.
            ConfigurationError: it answers, but see `check_session`.
        """
        try:
            self._pool.open(wait=True, timeout=timeout_seconds)
        except PoolTimeout as err:
            self._pool.close()
            raise UnavailableError(
                f"catalog: no connection within {timeout_seconds:.0f} s: {self._why_not()}; is "
                f"Postgres running, and are the address, the user and the password in the file of "
                f"POSTGRES_DSN_FILE right?"
            ) from err

    def _why_not(self) -> str:
        """Why there is no connection: the pool only logs it.

        Raises:
            ConfigurationError: see `check_session`.
        """
        try:
            connect(self._dsn).close()
        except psycopg.Error as err:
            return _first_line(err)
        return "there is one now"

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Tx]:
        """One transaction, READ COMMITTED: rules that need more take explicit row locks.

        Raises:
            UnavailableError: connection lost or transaction aborted by the server. The commit may
                or may not have happened; every function here may be called again to find out.
            OutOfSpaceError: the disk of Postgres is full; nothing was committed.
            BadInputError: a value is none that SQL can hold; nothing was committed.
        """
        with translated(), self._pool.connection() as tx:
            yield tx

    @contextlib.contextmanager
    def reading(self, wait_seconds: float | None = None) -> Iterator[Tx]:
        """For one statement that only reads: one round trip instead of three. Errors as above.

        Args:
            wait_seconds: how long to wait for a connection; None: as long as everybody.
        """
        with translated(), self._pool.connection(wait_seconds) as tx:
            tx.autocommit = True
            try:
                yield tx
            finally:
                if not tx.closed:
                    tx.autocommit = False

    @contextlib.contextmanager
    def listen(self, channel: LiteralString) -> Iterator[Connection[TupleRow]]:
        """A connection of its own that listens on a notification channel.

        Raises:
            UnavailableError: it cannot be had, or is lost while the caller waits for notifications.
        """
        with translated(), connect(self._dsn, autocommit=True) as connection:
            connection.execute(f"LISTEN {channel}")
            yield connection


def ask_postgres(catalog: Catalog) -> None:
    """Return if a connection can be had, the schema is there, and Postgres takes writes.

    What `/readyz` asks. A full disk shows only when something is written, so it is not noticed.

    Raises:
        UnavailableError: no connection within 2 s, or the server only reads, as a standby does.
        InvariantViolation: the catalog's tables are not there.
    """
    with catalog.reading(_ASK_SECONDS_MAX) as tx:
        row = tx.execute(
            "SELECT current_setting('transaction_read_only') FROM incarnation"
        ).fetchone()
    if row is None or row[0] != "off":
        raise UnavailableError("catalog: Postgres takes no writes; is it a standby?")


def _prepare(connection: Tx) -> None:
    check_session(connection)
    teach_arrays(connection)


def _check_quiet(connection: Tx) -> None:
    """Refuse a connection that the server has closed; costs a system call, not a round trip."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    while poll.poll(0):
        connection.pgconn.consume_input()  # takes in notices; raises at the end of the connection


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn errors of the driver into ours."""
    try:
        yield
    except PoolTimeout as err:
        raise UnavailableError(
            f"catalog: {err}; is Postgres running, and are there fewer callers than connections?"
        ) from err
    except UnicodeEncodeError as err:
        raise BadInputError("catalog: a text is not UTF-8; nothing was committed") from err
    except psycopg.Error as err:
        state = err.sqlstate or ""
        if state == _OUT_OF_SPACE:
            raise OutOfSpaceError(
                "catalog: the disk of Postgres is full; nothing was committed. "
                "Free space there, then try again"
            ) from err
        lost = isinstance(err, psycopg.OperationalError) and not state
        if lost or state[:2] in _RETRIABLE_CLASSES or state == _READ_ONLY:
            raise UnavailableError(
                f"catalog: {type(err).__name__} {state}: {_first_line(err)}"
            ) from err
        # A value that SQL cannot hold, such as a name with a NUL, came from outside: rows that
        # are in the catalog hold none.
        kind = BadInputError if isinstance(err, psycopg.DataError) else InvariantViolation
        raise kind(f"catalog: {type(err).__name__} {state}: {_first_line(err)}") from err


def _first_line(err: psycopg.Error) -> str:
    return str(err).strip().split("\n", 1)[0]
