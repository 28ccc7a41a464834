"""`backcast status` names what is away, soon, and never says that all is well then."""

import functools

from tests.integration.away.command import Ran, backcast
from tests.support.running import RunningSite, eventually

WELL = "all is well"


def saying(site: RunningSite, *texts: str) -> Ran | None:
    ran = backcast(site, "status")
    return ran if all(text in ran.out for text in texts) else None


def said(site: RunningSite, *texts: str) -> Ran:
    """What the screen shows, as soon as it has all of these."""
    ran = eventually(f"status says {texts}", functools.partial(saying, site, *texts))
    assert ran is not None
    return ran


def test_without_a_chunker_nothing_is_well_and_the_session_that_hangs_is_named(
    site: RunningSite,
) -> None:
    site.volume("hangs", 1 << 20)
    assert site.take("hangs")["state"] == "sealed"
    assert said(site, WELL).status == 0
    site.kill("chunker")
    session = site.begin("hangs")
    ran = said(site, "no chunker runs", "hangs: its open session")
    assert ran.status == 1
    assert WELL not in ran.out
    assert str(session) in ran.out
    assert "no chunker has taken volume hangs" in ran.out
    site.start("chunker")
    assert site.end(session)["state"] == "sealed"
    assert said(site, WELL).status == 0


def test_a_chunker_that_ends_in_order_takes_its_row_away(site: RunningSite) -> None:
    said(site, "reads 8 partitions")
    site.server("chunker").stop()
    assert said(site, "no chunker runs").status == 1
    site.start("chunker")
    assert "last heard of" in said(site, WELL).out


def test_without_postgres_every_service_that_needs_it_is_named(site: RunningSite) -> None:
    site.kill("postgres")
    ran = said(site, *(f"service {name}: is not ready: " for name in ("restore", "catalog")))
    assert ran.status == 1, ran.err
    assert "service coordinator: is not ready: " in ran.out
    assert "postgres: " in ran.out
    assert WELL not in ran.out


def test_without_kafka_or_the_store_that_is_named(site: RunningSite) -> None:
    for server, name in (("kafka", "kafka"), ("minio", "store primary")):
        site.kill(server)
        ran = said(site, f"service catalog: works without {name}")
        assert (server, ran.status) == (server, 1)
        site.start(server)


def test_without_the_restore_service_the_others_are_still_asked(site: RunningSite) -> None:
    site.kill("restore")
    ran = backcast(site, "status")
    assert ran.status == 1
    assert "service restore: is not ready: " in ran.out
    for name in ("catalog", "coordinator"):
        assert f"service {name}: is not ready" not in ran.out
    assert "which notifications are open is not known" not in ran.out
