"""A crash at every effect, before and after it, and what the next attempts make of it.

The real code of agent, coordinator, chunker, catalog and restore service runs in one thread on a
real Postgres, with every choice from a seed. After each crash: no acknowledged snapshot is lost, no
byte is wrong, the next attempt succeeds, and everything that is left over is collected.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from uuid import uuid4

import psycopg
import pytest

from deploy.local.cluster import LocalCluster
from libs.catalogdb.migrate import migrate
from tests.faults.conftest import Scale
from tests.faults.crash_points.enumerating import (
    Report,
    Task,
    begin_worker,
    replay,
    run_task,
)
from tests.faults.crash_points.planted import PLANTED
from tests.faults.crash_points.scenarios import SCENARIOS
from tests.support.catalog import create_logins

_WORKERS = 2


@pytest.fixture(scope="module")
def workers(servers: LocalCluster) -> Iterator[ProcessPoolExecutor]:
    """Processes with a database each, whose commits need not survive a crash of Postgres."""
    context = multiprocessing.get_context("spawn")
    dsns, names = context.Queue(), [f"crash_{uuid4().hex}" for _ in range(_WORKERS)]
    with psycopg.connect(servers.postgres.dsn, autocommit=True) as admin:
        for name in names:
            admin.execute(f"CREATE DATABASE {name}".encode())
            admin.execute(f"ALTER DATABASE {name} SET synchronous_commit = off".encode())
            dsn = servers.postgres.dsn.rpartition("/")[0] + f"/{name}"
            migrate(dsn)
            create_logins(dsn)
            dsns.put(dsn)
        with ProcessPoolExecutor(_WORKERS, context, begin_worker, (dsns,)) as pool:
            yield pool
        for name in names:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def test_no_crash_loses_anything(
    workers: ProcessPoolExecutor,
    scale: Scale,
    tally: Callable[..., None],
    request: pytest.FixtureRequest,
) -> None:
    report = Report()
    line = request.config.getoption("--crash-point")
    if line:
        report.add(workers.submit(replay, line).result())
    else:
        seeds = scale.pick(1, 5, 60)
        tasks = [
            Task(
                scenario.name,
                seed,
                points=5 if scale is Scale.SAMPLE else None,
                pairs=scale.pick(0, 5, 100),
            )
            for seed in range(1, seeds + 1)
            for scenario in SCENARIOS
        ]
        for task, done in zip(tasks, workers.map(run_task, tasks), strict=True):
            report.add(done)
            found = f"{done.counts['crash_points']} points, {len(done.failures)} failed"
            print(f"{task.scenario}, seed {task.seed}: {found}")
        counts = {kind: report.counts[kind] for kind in sorted(report.counts)}
        tally("crash points", scenarios=len(SCENARIOS), seeds=seeds, **counts)
    assert not report.failures, "\n".join([f"{len(report.failures)} failed", *report.failures])
    if not line:
        assert report.counts["crash_points"] >= scale.pick(70, 5000, 50_000)
        assert report.counts["repeated"] >= scale.pick(1, 100, 1000)
        assert report.counts["pairs"] >= scale.pick(0, 250, 25_000)


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(workers: ProcessPoolExecutor, bug: str) -> None:
    scenario = PLANTED[bug].scenario
    report = workers.submit(run_task, Task(scenario, seed=1, planted=bug)).result()
    assert report.failures, f"no crash point of {scenario!r} shows that {bug}"
