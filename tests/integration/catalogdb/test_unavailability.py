"""A catalog that is down, has failed over or is full says so, and works when it is back."""

import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg.conninfo import make_conninfo

from deploy.local.fixtures import start_or_skip
from deploy.local.home import BackcastHome
from deploy.local.servers.postgres import PostgresServer
from libs.catalogdb.log.log import LOG_CHANNEL
from libs.catalogdb.log.notifications import raise_notification
from libs.catalogdb.migrate import migrate
from libs.catalogdb.pool import Catalog, translated
from libs.catalogdb.protected import create_tenant, find_tenant, list_nodes
from libs.catalogdb.sessions.session import session_of_capture
from libs.errors import InvariantViolation, OutOfSpaceError, UnavailableError
from libs.events.notifications import NotificationRaised
from libs.ids import uuid7
from libs.runtime.retries import retried
from tests.support.catalog import TENANT, CatalogSite, Worker, item, open_on, protect

NOTICE = NotificationRaised(kind="tracking-lost", severity="warning", message="look")


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server that the test may stop."""
    server = PostgresServer(BackcastHome(tmp_path_factory.mktemp("postgres"), tied=True))
    try:
        server.prepare(print)
        start_or_skip(server.spawn)
        server.wait_ready()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.home.folder / "data")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_server_is_unavailable_until_it_is_back(
    server: PostgresServer, how: signal.Signals
) -> None:
    migrate(server.dsn)
    catalog = Catalog(server.dsn, wait_seconds=0.5)
    catalog.open()
    try:
        tenant = create_tenant(catalog, TENANT, uuid7(), uuid7())
        with catalog.listen(LOG_CHANNEL) as listener:
            server.process.stop(how)
            with pytest.raises(UnavailableError), translated():
                next(listener.notifies(timeout=20))
        with pytest.raises(UnavailableError, match="is Postgres running"):
            list_nodes(catalog)
        with pytest.raises(UnavailableError), catalog.listen(LOG_CHANNEL):
            pass
        server.spawn()
        server.wait_ready()
        # The pool tries to connect ever more rarely, and may pause when the server is back.
        assert retried(lambda: find_tenant(catalog, TENANT), 10) == tenant
    finally:
        catalog.close()


def test_what_is_idempotent_waits_for_the_server_where_its_caller_is_patient(
    server: PostgresServer,
) -> None:
    migrate(server.dsn)
    hasty = Catalog(server.dsn, wait_seconds=0.2)
    patient = Catalog(server.dsn, wait_seconds=0.2, patience_seconds=60)
    catalogs = (hasty, patient)
    for catalog in catalogs:
        catalog.open()
    try:
        server.process.stop(signal.SIGKILL)
        with pytest.raises(UnavailableError):
            session_of_capture(hasty, uuid7())
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(session_of_capture, patient, uuid7())
            with pytest.raises(TimeoutError):
                waiting.result(1)
            server.spawn()
            server.wait_ready()
            assert waiting.result(60) is None
    finally:
        for catalog in catalogs:
            catalog.close()


def test_a_catalog_that_does_not_answer_is_unavailable_at_the_start() -> None:
    catalog = Catalog("postgresql://postgres@127.0.0.1:1/backcast")
    with pytest.raises(UnavailableError, match="is Postgres running"):
        catalog.open(timeout_seconds=0.3)


def test_more_callers_than_connections_wait_and_are_told(site: CatalogSite) -> None:
    catalog = Catalog(site.dsn, size_max=1, wait_seconds=0.3)
    catalog.open()
    with (
        catalog.transaction(),
        pytest.raises(UnavailableError, match="fewer callers than connections"),
    ):
        list_nodes(catalog)
    assert list_nodes(catalog) == []
    catalog.close()


def test_a_transaction_whose_connection_is_ended_is_unavailable_and_leaves_nothing(
    site: CatalogSite,
) -> None:
    protect(site, "vm")
    worker = Worker(site, open_on(site, "vm"))
    pack = worker.claim()
    with site.impatient(), site.holding_log("backcast.packs"):
        registering = site.start(worker.register, pack, item(1))
        site.wait_until_waiting(1)
        site.sql(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"""
        )
        assert isinstance(registering.exception(), UnavailableError)
    assert worker.look_up(item(1)) == [0]
    assert worker.register(pack, item(1)) == {}


def test_a_server_that_has_become_a_standby_is_unavailable(site: CatalogSite) -> None:
    """After a fail-over the old primary still answers, but takes no writes."""
    catalog = Catalog(make_conninfo(site.dsn, options="-c default_transaction_read_only=on"))
    catalog.open()
    with pytest.raises(UnavailableError, match="read-only"):
        raise_notification(catalog, "catalog", TENANT, "vm", NOTICE)
    assert list_nodes(catalog) == []
    catalog.close()


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("disk_full", OutOfSpaceError),
        ("io_error", UnavailableError),
        ("deadlock_detected", UnavailableError),
        ("serialization_failure", UnavailableError),
        ("too_many_connections", UnavailableError),
        ("check_violation", InvariantViolation),
        ("insufficient_privilege", InvariantViolation),
    ],
)
def test_errors_of_the_server_become_ours(
    site: CatalogSite, state: str, expected: type[Exception]
) -> None:
    """Raised by a trigger where the log is written, as the server would at that place."""
    site.sql(
        f"""CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'because' USING ERRCODE = '{state}'; END $$"""
    )
    site.sql("CREATE TRIGGER fails BEFORE INSERT ON event_log EXECUTE FUNCTION fails()")
    try:
        with pytest.raises(expected) as error, site.impatient():
            raise_notification(site.chunker, "chunker", TENANT, "vm", NOTICE)
        assert type(error.value) is expected
        assert site.sql("SELECT sum(last)::int FROM log_position") == [(0,)]
    finally:
        site.sql("DROP FUNCTION fails CASCADE")
