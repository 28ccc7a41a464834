"""Each service's login may do what its transactions do, and nothing else.

That it may do that much, all other tests here show: they call each transaction in the login of a
service that calls it in earnest.
"""

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from libs.catalogdb.migrate import create_login
from tests.support.catalog import CatalogSite, login_of, protect

#: Table → privileges of coordinator, chunker, catalog and restore: Select, Insert, Update, Delete;
#: u = of some columns: of one that decides nothing, because a row cannot be locked without, or of
#: those that the service's changes of a row are about.
PRIVILEGES = {
    "audit": ("SI", "", "SI", "SI"),
    "audit_position": ("", "", "SU", ""),
    "attempt": ("SU", "SIU", "SUD", ""),
    "barrier_node": ("SI", "", "SD", "S"),
    "candidate": ("", "SI", "SIUD", ""),
    "checkpoint_change": ("", "", "SUD", ""),
    "checkpoint_link": ("", "", "SID", ""),
    "chunk_#": ("", "SIU", "SIUD", "S"),
    "chunker": ("", "SIUD", "S", ""),
    "consumer_position": ("", "SIU", "S", ""),
    "copy": ("", "SIU", "SIUD", "Su"),
    "damage": ("S", "SIU", "SIUD", "SIU"),
    "domain": ("SI", "S", "SIU", "S"),
    "domain_grant": ("SI", "S", "SI", ""),
    "event_log": ("SI", "SI", "SI", "SI"),
    "group_domain": ("SI", "", "SI", ""),
    "halt": ("", "", "SIUD", ""),
    "hold": ("", "", "SIUD", ""),
    "incarnation": ("Su", "Su", "SU", "S"),
    "invitation": ("SIUD", "", "S", ""),
    "leans": ("", "SI", "SD", ""),
    "log_position": ("SU", "SU", "SU", "SU"),
    "marking": ("", "SU", "SIUD", ""),
    "node": ("SIU", "S", "SIU", "S"),
    "notification": ("SIUD", "SIUD", "SIUD", "SIUD"),
    "pack": ("", "SIU", "SIU", "Su"),
    "pack_use": ("S", "SIU", "SIUD", ""),
    "part": ("SIU", "SU", "SD", ""),
    "part_use": ("SD", "SID", "SD", ""),
    "past": ("S", "S", "SI", ""),
    "pin": ("SD", "SID", "SID", "SID"),
    "lease": ("", "", "SIUD", "SIU"),
    "recount": ("", "", "SID", ""),
    "retention": ("S", "", "SIUD", ""),
    "retention_clock": ("", "", "SU", ""),
    "schema_version": ("", "", "S", ""),
    "session": ("SIU", "SU", "SIUD", ""),
    "snapshot": ("Su", "SIu", "SIUD", "Su"),
    "snapshot_volume": ("S", "SI", "SID", "S"),
    "source": ("SIUD", "S", "SIUD", "S"),
    "store": ("", "S", "SIU", "S"),
    "suspect": ("", "", "SIUD", ""),
    "sweep": ("", "", "SIU", ""),
    "tally": ("SIU", "SIU", "SIU", ""),
    "tenant": ("SIu", "S", "SIU", "S"),
    "token": ("S", "", "SIu", "S"),
    "token_change": ("S", "", "SU", "S"),
    "tombstone": ("", "", "SIUD", ""),
    "verification": ("", "", "SIUD", "SIu"),
    "volume": ("SIu", "Su", "SIU", "S"),
    "volume_group": ("SIU", "SU", "SIU", "S"),
}


def test_privileges_are_those_that_were_agreed(site: CatalogSite) -> None:
    protect(site, "vm")
    assert privileges_of(site) == PRIVILEGES


def privileges_of(site: CatalogSite) -> dict[str, tuple[str, ...]]:
    rows = site.sql(
        """SELECT regexp_replace(t.tablename, '\\d+$', '#'),
                  array_agg((SELECT coalesce(string_agg(left(kind, 1), '' ORDER BY place), '')
                             FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE'])
                                  WITH ORDINALITY AS p (kind, place)
                             WHERE has_table_privilege(role, t.tablename, kind))
                            || CASE WHEN has_any_column_privilege(role, t.tablename, 'UPDATE')
                                     AND NOT has_table_privilege(role, t.tablename, 'UPDATE')
                                    THEN 'u' ELSE '' END ORDER BY n)
           FROM pg_tables t,
                unnest(ARRAY['backcast_coordinator', 'backcast_chunker', 'backcast_catalog',
                             'backcast_restore']) WITH ORDINALITY AS r (role, n)
           WHERE t.schemaname = 'public' GROUP BY t.tablename ORDER BY t.tablename"""
    )
    return {table: tuple(privileges) for table, privileges in rows}


@pytest.mark.parametrize(
    ("service", "forbidden"),
    [
        ("restore", "UPDATE pack SET state = 'd'"),
        ("restore", "UPDATE snapshot SET state = 'x'"),
        ("restore", "SELECT token FROM part"),
        ("restore", "SELECT create_chunk_table(1)"),
        ("catalog", "UPDATE audit SET token = 'nobody'"),
        ("catalog", "DELETE FROM audit"),
        ("catalog", "TRUNCATE audit"),
        ("restore", "UPDATE token SET revoked_at = NULL"),
        ("coordinator", "INSERT INTO token_change VALUES (false, 1)"),
        ("catalog", "UPDATE token SET roles = '{admin}'"),
        ("coordinator", "UPDATE snapshot SET state = 'x'"),
        ("coordinator", "SELECT generation FROM pack"),
        ("coordinator", "UPDATE pack SET state = 'd'"),
        ("coordinator", "CREATE TABLE mine (x int)"),
        ("chunker", "INSERT INTO tenant (name, domain_no) VALUES ('x', 1)"),
        ("chunker", "DELETE FROM snapshot"),
        ("chunker", "UPDATE event_log SET tenant = 'x'"),
        ("catalog", "DELETE FROM event_log"),
        ("catalog", "TRUNCATE event_log"),
        ("catalog", "SET ROLE postgres"),
    ],
)
def test_what_a_service_must_not_do_fails(site: CatalogSite, service: str, forbidden: str) -> None:
    with (
        psycopg.connect(site.dsn_of(service)) as login,
        pytest.raises(InsufficientPrivilege),
    ):
        login.execute(forbidden.encode())


def test_a_login_gets_a_new_password_and_the_settings_of_point_queries(site: CatalogSite) -> None:
    name = login_of("restore")
    old = site.dsn_of("restore")
    create_login(site.dsn, "restore", name, "it's another")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(old)
    create_login(site.dsn, "restore", name, "test")
    with psycopg.connect(old) as login:
        row = login.execute("SHOW enable_seqscan").fetchone()
    assert row == ("off",)
