"""No loop of a service dies alone, and no setting of a database stops one: on the real servers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from deploy.local.process import outer_environ
from tests.support.running import RunningSite, eventually

MIB = 1 << 20
#: The first round of every loop ends with an error that nobody foresaw.
BREAK_EVERY_LOOP = """
import dataclasses, runpy, sys
from libs.runtime import loops

start = loops.start_loops

def broken(loop):
    rounds = iter([ValueError(f"a bug in {loop.name}")])

    def round(stop, progressed):
        for failure in rounds:
            raise failure
        return loop.round(stop, progressed)

    return dataclasses.replace(loop, round=round)

loops.start_loops = lambda all, health, stop: start([broken(one) for one in all], health, stop)
runpy.run_module(sys.argv.pop(1), run_name="__main__")
"""
LOOPS = {
    "catalog": {
        *("overdue", "checkpoints", "retention", "relay", "listening"),
        *("collection", "upkeep", "verification", "watch", "figures", "tokens", "audit"),
    },
    "coordinator": {"listening", "watch", "tokens"},
    "agent": {"announce", "let go", "report", "discover"},
    "chunker": {"renew", "announce"},
    "restore": {"listening", "tokens"},
}
#: A thread that is no loop of rounds is broken, whatever it was going to do.
BREAK_A_THREAD = """
import importlib, runpy, sys

place, name = sys.argv.pop(2).rsplit(".", 1)
module, _, class_ = place.rpartition(".")

def broken(*arguments, **named):
    raise ValueError("a bug")

setattr(getattr(importlib.import_module(module), class_), name, broken)
runpy.run_module(sys.argv.pop(1), run_name="__main__")
"""
#: Each would change what our statements mean, or how the driver reads an answer.
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
    "idle_session_timeout": "100ms",
    "search_path": "pg_catalog",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "lc_messages": "C",
    "lc_monetary": "C",
    "lc_numeric": "C",
    "lc_time": "C",
}


def messages(site: RunningSite, service: str, text: str) -> set[str]:
    """The loops of which a service has logged ``text``."""
    lines = (json.loads(line) for line in site.log(service).splitlines() if line[:1] == "{")
    return {line.get("loop", "") for line in lines if line["message"] == text}


def everything_works(site: RunningSite, name: str) -> None:
    """A snapshot, its restore, and its events in Kafka."""
    path = site.volume(name, 2 * MIB)
    assert site.take(name)["state"] == "sealed"
    assert site.matches(name, path)
    eventually(
        "everything is published",
        lambda: site.sql("SELECT bool_and(published = last) FROM log_position") == [(True,)],
        20,
    )


@pytest.mark.parametrize("service", LOOPS)
def test_every_loop_goes_on_after_an_error_that_nobody_foresaw(
    site: RunningSite, service: str
) -> None:
    site.server(service).process.stop()
    broken = site.service(service)
    broken.argv = [sys.executable, "-c", BREAK_EVERY_LOOP, broken.argv[2]]
    broken.spawn()
    eventually(
        "every loop has failed", lambda: messages(site, service, "round failed") == LOOPS[service]
    )
    eventually(
        "every loop works again",
        lambda: messages(site, service, "loop works again") == LOOPS[service],
    )
    eventually("it is ready", broken.is_ready)
    everything_works(site, f"after-{service}")
    broken.process.stop()
    site.start(service)


@pytest.mark.parametrize(
    ("service", "thread"),
    [
        ("chunker", "services.chunker.intake.Intake._read"),
        ("agent", "services.change_capture.agent.spans.newcomers.Newcomers.run"),
        ("agent", "services.change_capture.agent.publishing.EventSender._drain"),
        ("agent", "services.change_capture.agent.window.Window.preallocate"),
        ("catalog", "uvicorn.Server.run"),
        ("coordinator", "uvicorn.Server.run"),
        ("restore", "uvicorn.Server.run"),
    ],
)
def test_a_broken_thread_ends_its_process_with_the_reason(
    site: RunningSite, service: str, thread: str
) -> None:
    known = site.service(service)
    elsewhere = {
        f"BACKCAST_{service.upper()}_LISTEN": "127.0.0.1:0",
        "BACKCAST_AGENT_SPAN_LISTEN": "127.0.0.1:0",
        "BACKCAST_CHUNKER_NAME": "broken",
    }
    mine = f"BACKCAST_{service.upper()}_"
    ended = subprocess.run(
        [sys.executable, "-c", BREAK_A_THREAD, known.argv[2], thread],
        env=outer_environ()
        | known.environ
        | {name: value for name, value in elsewhere.items() if name.startswith(mine)},
        cwd=Path.cwd(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 70, ended.stderr
    assert "ended by an unexpected error" in ended.stderr
    assert "a bug" in ended.stderr


@pytest.fixture
def hostile(site: RunningSite) -> Iterator[RunningSite]:
    """The database and every login have settings that nobody in their right mind would give."""
    logins = ("catalog", "coordinator", "chunker", "restore")
    owners = ["DATABASE backcast", *(f"ROLE {one} IN DATABASE backcast" for one in logins)]

    def change(words: str) -> None:
        # Not in the database itself, whose new connections cannot write any more.
        dsn = site.cluster.postgres.dsn.rpartition("/")[0] + "/postgres"
        with psycopg.connect(dsn, autocommit=True) as admin:
            for owner in owners:
                for name, value in HOSTILE.items():
                    admin.execute(f"ALTER {owner} {words.format(name=name, value=value)}".encode())
            admin.execute(
                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = 'backcast'"""
            )

    change("SET {name} = '{value}'")
    yield site
    change("RESET {name}")


def test_settings_of_database_and_roles_change_nothing(hostile: RunningSite) -> None:
    secret = hostile.cluster.home.secret("postgres-catalog-password")
    dsn = hostile.cluster.postgres.dsn_of("catalog", secret)
    with psycopg.connect(dsn, options="-c idle_session_timeout=0") as somebody:
        assert (somebody.pgconn.parameter_status(b"DateStyle") or b"").startswith(b"German")
    failed = {one: hostile.log(one).count("round failed") for one in LOOPS}
    hostile.cluster.local_services().initialize(lambda _: None)
    path = hostile.volume("hostile", 2 * MIB)
    assert hostile.take("hostile")["state"] == "sealed"
    assert hostile.matches("hostile", path)
    for service in ("catalog", "coordinator", "chunker", "restore"):
        hostile.server(service).process.stop()
        hostile.start(service)
    path.write_bytes(os.urandom(MIB) + path.read_bytes()[MIB:])
    assert hostile.take("hostile")["state"] == "sealed"
    assert hostile.matches("hostile", path)
    dsn = hostile.cluster.postgres.dsn
    patient = "-c statement_timeout=0 -c idle_session_timeout=0 -c search_path=public"
    with psycopg.connect(dsn, autocommit=True, options=patient) as admin:
        eventually(
            "everything is published",
            lambda: (
                admin.execute("SELECT bool_and(published = last) FROM log_position").fetchone()
                == (True,)
            ),
            20,
        )
    assert failed == {one: hostile.log(one).count("round failed") for one in LOOPS}
