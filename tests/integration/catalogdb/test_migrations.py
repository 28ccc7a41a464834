"""From an empty database to the newest schema, once, whoever else does it at the same time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from libs.catalogdb.migrate import migrate
from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import create_tenant
from libs.errors import ConfigurationError, InvariantViolation, UnavailableError
from libs.events.topics import RELAYED_TOPICS
from libs.ids import uuid7


@pytest.fixture
def owner(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as owner:
        yield owner


def versions(owner: psycopg.Connection) -> list[int]:
    return [row[0] for row in owner.execute("SELECT version FROM schema_version ORDER BY 1")]


def test_an_empty_database_gets_the_schema_and_migrating_it_again_changes_nothing(
    database: str, owner: psycopg.Connection
) -> None:
    newest = migrate(database)
    incarnation = owner.execute("SELECT * FROM incarnation").fetchall()
    topics = owner.execute("SELECT topic, last FROM log_position").fetchall()
    assert versions(owner) == list(range(1, newest + 1))
    assert len(incarnation) == 1
    assert sorted(topics) == sorted((topic, 0) for topic in RELAYED_TOPICS)

    owner.execute("UPDATE log_position SET last = 7")
    assert migrate(database) == newest
    assert versions(owner) == list(range(1, newest + 1))
    assert owner.execute("SELECT * FROM incarnation").fetchall() == incarnation
    assert owner.execute("SELECT DISTINCT last FROM log_position").fetchall() == [(7,)]


def test_two_who_migrate_at_once_wait_for_each_other(
    database: str, owner: psycopg.Connection
) -> None:
    with ThreadPoolExecutor(2) as threads:
        newest = set(threads.map(migrate, [database] * 2))
    assert versions(owner) == list(range(1, newest.pop() + 1))


def test_a_newer_schema_is_refused_and_left_alone(database: str, owner: psycopg.Connection) -> None:
    newest = migrate(database)
    owner.execute("INSERT INTO schema_version (version) VALUES (%s)", [newest + 1])
    with pytest.raises(ConfigurationError, match="run the newer release"):
        migrate(database)
    assert versions(owner) == list(range(1, newest + 2))


def test_a_migration_that_fails_leaves_nothing_and_the_next_run_completes_it(
    database: str, owner: psycopg.Connection
) -> None:
    owner.execute("CREATE TABLE event_log (in_the_way int)")
    with pytest.raises(InvariantViolation, match="event_log"):
        migrate(database)
    assert versions(owner) == []
    assert owner.execute("SELECT to_regclass('session')").fetchone() == (None,)
    owner.execute("DROP TABLE event_log")
    assert migrate(database) == versions(owner)[-1]


def test_grants_on_the_index_of_a_domain_survive_a_migration(
    database: str, owner: psycopg.Connection
) -> None:
    migrate(database)
    catalog = Catalog(database)
    catalog.open()
    domain_no = create_tenant(catalog, "acme", uuid7(), uuid7()).domain_no
    catalog.close()
    migrate(database)
    granted = owner.execute(
        "SELECT has_table_privilege('backcast_chunker', %s, 'INSERT')", [f"chunk_{domain_no}"]
    )
    assert granted.fetchone() == (True,)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(UnavailableError):
        migrate("postgresql://postgres@127.0.0.1:1/backcast")
