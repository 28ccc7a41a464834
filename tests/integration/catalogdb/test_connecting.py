"""Whatever a database or a role sets, a connection of ours has our settings; or it is refused."""

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from deploy.local.cluster import LocalCluster
from libs.catalogdb import connecting
from libs.catalogdb.connecting import connect
from libs.catalogdb.log.log import LOG_CHANNEL, read_log
from libs.catalogdb.log.notifications import raise_notification
from libs.catalogdb.migrate import migrate
from libs.catalogdb.pool import Catalog
from libs.errors import ConfigurationError, UnavailableError
from libs.events.notifications import NotificationRaised
from libs.events.topics import NOTIFICATIONS

HOSTILE = {
    "DateStyle": "German",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "client_encoding": "LATIN1",
    "extra_float_digits": "-5",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "row_security": "on",
    "synchronous_commit": "off",
    "statement_timeout": "1ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
    "idle_session_timeout": "1ms",
    "search_path": "pg_catalog",
    "random_page_cost": "4",
}


@pytest.fixture
def hostile(database: str) -> str:
    """A migrated database whose settings would change what our statements mean."""
    migrate(database)
    name = sql.Identifier(database.rpartition("/")[2])
    with psycopg.connect(database, autocommit=True) as admin:
        for setting, value in HOSTILE.items():
            admin.execute(
                sql.SQL("ALTER DATABASE {} SET {} = {}").format(
                    name, sql.Identifier(setting), sql.Literal(value)
                )
            )
    return database


def test_a_connection_has_our_settings_and_not_those_of_its_database(hostile: str) -> None:
    expected = connecting._DEFAULTS | connecting._FIXED | {"client_encoding": "UTF8"}
    assert set(HOSTILE) == set(expected)
    with connect(hostile) as db:
        for name, value in expected.items():
            assert db.execute("SELECT current_setting(%s)", [name]).fetchone() == (value,)
        isolation = db.execute("SHOW transaction_isolation").fetchone()
    assert isolation == ("read committed",)


def test_events_are_written_and_read_and_heard_of_there(hostile: str) -> None:
    catalog = Catalog(hostile)
    catalog.open()
    notice = NotificationRaised(kind="tracking-lost", severity="warning", message="Zażółć 漢")
    with catalog.listen(LOG_CHANNEL) as listener:
        raise_notification(catalog, "chunker", "default", NOTIFICATIONS, notice)
        assert list(listener.notifies(timeout=20, stop_after=1))
    (event,) = read_log(catalog, NOTIFICATIONS, 0, 10)
    offset = event.envelope.occurred_at.utcoffset()
    assert offset is not None
    assert not offset
    catalog.close()


def test_the_schema_is_brought_up_to_date_there(hostile: str) -> None:
    assert migrate(hostile) == migrate(hostile)


def test_the_connection_string_may_ask_for_time_outs_and_a_schema_of_its_own(
    hostile: str,
) -> None:
    asked = "-c statement_timeout=7s -c search_path=other -c DateStyle=German"
    with connect(make_conninfo(hostile, options=asked)) as db:
        assert db.execute("SHOW statement_timeout").fetchone() == ("7s",)
        assert db.execute("SHOW search_path").fetchone() == ("other",)
        assert db.execute("SHOW DateStyle").fetchone() == ("ISO, MDY",)


def test_settings_that_somebody_puts_before_ours_are_refused_by_name(
    hostile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGDATESTYLE", "German")
    with pytest.raises(ConfigurationError, match=r"DateStyle is 'German.*PGDATESTYLE"):
        connect(hostile)
    with pytest.raises(ConfigurationError, match="PGDATESTYLE"):
        Catalog(hostile, wait_seconds=1).open(timeout_seconds=1)


@pytest.fixture
def made(servers: LocalCluster) -> Iterator[str]:
    """The name of a database that the test makes."""
    name = f"test_{uuid4().hex}"
    yield name
    with psycopg.connect(servers.postgres.dsn, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())


def make(servers: LocalCluster, name: str, how: str) -> str:
    with psycopg.connect(servers.postgres.dsn, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 {how}".encode())
    return servers.postgres.dsn.rpartition("/")[0] + f"/{name}"


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_of_another_encoding_is_refused(
    servers: LocalCluster, made: str, encoding: str
) -> None:
    how = f"ENCODING '{encoding}' LOCALE 'C' LOCALE_PROVIDER libc"
    dsn = make(servers, made, how)
    with pytest.raises(ConfigurationError, match=f"encoding is {encoding}, expected UTF8"):
        migrate(dsn)


def test_a_wrong_password_is_named_with_its_user_and_setting(servers: LocalCluster) -> None:
    catalog = Catalog(servers.postgres.dsn_of("postgres", "guessed"))
    with pytest.raises(UnavailableError, match=r"failed for user .*POSTGRES_DSN_FILE") as told:
        catalog.open(timeout_seconds=1)
    assert "guessed" not in str(told.value)
