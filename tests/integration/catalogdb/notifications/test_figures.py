"""Figures for metrics: what is protected, how sessions ended, and what a scrape shows of it."""

import time

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from libs.catalogdb.figures import TallyFigures, read_figures, read_stored
from libs.catalogdb.packs.damage import WHOLE_PACK, record_damage
from libs.catalogdb.sessions.session import reject_overdue, reject_session
from libs.runtime.signals import Stop
from services.catalog.figures import FiguresCollector
from tests.support.catalog import (
    TENANT,
    CatalogSite,
    item,
    open_on,
    protect,
    take_snapshot,
)


def scraped(site: CatalogSite) -> list[str]:
    registry = CollectorRegistry()
    FiguresCollector(site.catalog, registry).round(Stop(), lambda: None)
    return generate_latest(registry).decode().splitlines()


def reject(site: CatalogSite, group: str, code: str) -> None:
    reject_session(site.coordinator, "coordinator", open_on(site, group).session, code, "why")


def test_a_group_shows_when_it_was_sealed_and_how_its_last_session_ended(site: CatalogSite) -> None:
    protect(site, "vm")
    protect(site, "never")
    take_snapshot(site, "vm", item(1))
    never, vm = sorted(read_figures(site.catalog, 10).groups, key=lambda one: one.group)
    assert (never.sealed_at, never.rejected, vm.rejected) == (None, False, False)
    assert vm.sealed_at is not None
    assert 0 <= time.time() - vm.sealed_at < 60
    reject(site, "vm", "source")
    lines = scraped(site)
    assert f'backcast_group_last_session_rejected{{group="vm",tenant="{TENANT}"}} 1.0' in lines
    assert f'backcast_group_last_session_rejected{{group="never",tenant="{TENANT}"}} 0.0' in lines
    sealed = [line for line in lines if line.startswith("backcast_group_last_sealed_timestamp")]
    assert [line.split("{")[1].split("}")[0] for line in sealed] == [
        f'group="vm",tenant="{TENANT}"'
    ]
    take_snapshot(site, "vm", item(2))
    assert not any(one.rejected for one in read_figures(site.catalog, 10).groups)


def test_sessions_are_counted_by_how_they_ended(site: CatalogSite) -> None:
    protect(site, "vm")
    protect(site, "vm", tenant="other")
    take_snapshot(site, "vm", item(1))
    take_snapshot(site, "vm", item(2))
    reject(site, "vm", "source")
    open_on(site, "vm", deadline_seconds=-1)
    open_on(site, "vm", deadline_seconds=-1, tenant="other")
    reject_overdue(site.catalog)
    tally = {(one.tenant, one.code): one for one in read_figures(site.catalog, 10).tally}
    assert {key: one.sessions for key, one in tally.items()} == {
        (TENANT, "sealed"): 2,
        (TENANT, "source"): 1,
        (TENANT, "deadline"): 1,
        ("other", "deadline"): 1,
    }
    assert tally[TENANT, "sealed"] == TallyFigures(
        TENANT, "sealed", 2, read_bytes=2 << 20, changed_bytes=0, sent_bytes=0, stored_bytes=0
    )
    assert tally[TENANT, "source"].read_bytes == 0
    lines = scraped(site)
    assert f'backcast_sessions_total{{code="sealed",tenant="{TENANT}"}} 2.0' in lines
    assert f'backcast_snapshot_read_bytes_total{{tenant="{TENANT}"}} 2.097152e+06' in lines
    assert not any("_created" in line for line in lines)


def test_codes_that_agents_invent_have_no_end_of_series(site: CatalogSite) -> None:
    protect(site, "vm")
    for number in range(55):
        reject(site, "vm", f"invented-{number}")
    tally = {one.code: one.sessions for one in read_figures(site.catalog, 10).tally}
    assert len(tally) == 51
    assert tally["other"] == 5
    reject(site, "vm", "invented-1")
    assert {one.code: one.sessions for one in read_figures(site.catalog, 10).tally}[
        "invented-1"
    ] == 2


def test_what_is_wrong_is_counted_by_kind(site: CatalogSite) -> None:
    protect(site, "vm")
    _, pack_no = take_snapshot(site, "vm", item(1))
    record_damage(site.catalog, pack_no, [WHOLE_PACK], "gone")
    reject(site, "vm", "source")
    lines = scraped(site)
    assert 'backcast_notifications{kind="damage",severity="error"} 1.0' in lines
    assert 'backcast_notifications{kind="session-rejected",severity="error"} 1.0' in lines
    assert 'backcast_notifications{kind="node-silent",severity="error"} 0.0' in lines
    assert f'backcast_damaged_packs{{tenant="{TENANT}"}} 1.0' in lines
    assert f'backcast_volume_size_bytes{{tenant="{TENANT}",volume="vm"}} 1.073741824e+09' in lines


def test_a_volume_whose_changes_nobody_knew_is_shown_until_its_next_snapshot(
    site: CatalogSite,
) -> None:
    protect(site, "vm")
    take_snapshot(site, "vm", item(1))
    site.sql("UPDATE snapshot_volume SET tracking = 'lost'")
    gauge = f'backcast_volume_last_tracking_lost{{tenant="{TENANT}",volume="vm"}}'
    assert f"{gauge} 1.0" in scraped(site)
    take_snapshot(site, "vm", item(2))
    assert f"{gauge} 0.0" in scraped(site)


def test_the_live_packs_of_each_tenant_are_summed_up(site: CatalogSite) -> None:
    protect(site, "vm")
    protect(site, "vm", tenant="other")
    take_snapshot(site, "vm", item(1))
    first, second = read_stored(site.catalog)
    assert (first.tenant, first.packs) == (TENANT, 1)
    assert first.stored_bytes > 0
    assert (second.tenant, second.packs, second.stored_bytes) == ("other", 0, 0)


def test_so_many_groups_have_series_and_no_more(
    site: CatalogSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.catalog.figures.SERIES_COUNT_MAX", 2)
    for name in ("a", "b", "c"):
        protect(site, name)
    lines = scraped(site)
    assert len([one for one in lines if one.startswith("backcast_group_last_session_rej")]) == 2
    assert "backcast_groups 3.0" in lines


def test_a_scrape_does_not_wait_for_the_catalog(site: CatalogSite) -> None:
    registry = CollectorRegistry()
    collector = FiguresCollector(site.catalog, registry)
    assert generate_latest(registry) == b""
    collector.round(Stop(), lambda: None)
    with site.holding("LOCK TABLE volume_group IN ACCESS EXCLUSIVE MODE"):
        assert b"backcast_figures_age_seconds" in generate_latest(registry)
