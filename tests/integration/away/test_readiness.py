"""Who probes a service while a server is away hears soon which one, and nobody is restarted."""

import functools

import pytest

from tests.integration.away.readiness import Answer, ask
from tests.support.running import RunningSite, eventually

#: Those with a catalog; the agent has none, and is ready without it.
WITH_CATALOG = ("catalog", "coordinator", "restore", "chunker")
EVERY_SERVICE = (*WITH_CATALOG, "agent")


def naming(site: RunningSite, service: str, check: str) -> Answer | None:
    """The answer of a service that names a check as not ok."""
    answer = ask(site, service)
    return answer if check in answer.failed else None


def named(site: RunningSite, service: str, check: str) -> Answer:
    """The same, as soon as that is so: what was found a moment ago is told again."""
    what = f"{service} names {check}"
    answer = eventually(what, functools.partial(naming, site, service, check))
    assert answer is not None
    return answer


def is_ready(site: RunningSite, service: str, check: str) -> bool:
    """Ready, and with this check. A loop tells until its next round that it was put off."""
    answer = ask(site, service)
    return answer.status == 200 and check not in answer.failed


def test_every_service_says_soon_that_postgres_is_away(site: RunningSite) -> None:
    site.kill("postgres")
    for service in WITH_CATALOG:
        answer = named(site, service, "postgres")
        assert (service, answer.status, answer.body["ok"]) == (service, 503, False)
        assert answer.failed["postgres"], service
        assert str(site.cluster.home.port("postgres")) not in str(answer.body), service
    for service in EVERY_SERVICE:
        assert ask(site, service, "/healthz").status == 200, service
    site.start("postgres")
    for service in WITH_CATALOG:
        ready = functools.partial(is_ready, site, service, "postgres")
        eventually(f"{service} is ready", ready)


@pytest.mark.parametrize(
    ("server", "check", "told_by"),
    [
        ("kafka", "kafka", ("catalog",)),
        ("minio", "store primary", ("catalog", "coordinator", "restore")),
    ],
)
def test_a_server_that_only_a_part_needs_is_named_and_stops_only_that_part(
    site: RunningSite, server: str, check: str, told_by: tuple[str, ...]
) -> None:
    site.kill(server)
    for service in told_by:
        answer = named(site, service, check)
        assert (service, answer.status, answer.body["ok"]) == (service, 200, True)
    assert named(site, "chunker", check).status == 503
    site.start(server)
    for service in (*told_by, "chunker"):
        eventually(f"{service} is ready", functools.partial(is_ready, site, service, check))
