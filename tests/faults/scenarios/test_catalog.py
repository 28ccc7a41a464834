"""Scenarios 12, 14, 16, 17 and 19: the catalog's past, its keys, its log, and its clock."""

from datetime import timedelta

import pytest

from libs.catalogdb.deletion.sweeping import begin_pass
from libs.catalogdb.log.log import read_log
from libs.catalogdb.protected import find_tenant
from libs.catalogdb.sessions.sealing import Refused
from libs.catalogdb.snapshots.retention import RetentionPolicy, observe_clock, set_retention
from libs.errors import NotReconciledError, UnavailableError
from libs.events.topics import PACKS
from libs.keys.kek import KeyEncryptionKey
from libs.keys.vault import KeyVault
from libs.store.memory import MemoryStore
from libs.store.port import Body
from services.catalog.deletion.retention import Retention
from services.change_capture.coordinator.tenants import ensure_tenant
from tests.integration.catalog.recovery.timeline import Timeline
from tests.support.catalog import (
    TENANT,
    CatalogSite,
    Worker,
    item,
    open_on,
    protect,
    take_snapshot,
)


def test_scenario_12_a_catalog_that_fell_back_is_reconciled_before_anything_else(
    line: Timeline,
) -> None:
    """A snapshot that it forgot comes back, one that expired does not, nothing is told twice."""
    line.protected.take("disk", 1, 2)
    line.protected.take("disk", 1, 3)
    line.checkpoints.write()
    yesterday = line.dump()
    line.protected.take("disk", 4, 3)
    assert line.protected.expire("disk", 1)
    line.checkpoints.write()
    line.protected.collect()
    positions = line.site.sql("SELECT topic, last FROM log_position")

    line.go_back(yesterday)
    line.checkpoints.compare()
    with pytest.raises(NotReconciledError):
        open_on(line.site, "disk")
    with pytest.raises(NotReconciledError):
        begin_pass(line.site.catalog)
    line.reconcile()
    assert line.live() == {("disk", 2), ("disk", 3)} == set(line.protected.live)
    line.protected.check()
    for topic, last in positions:
        ((now,),) = line.site.sql("SELECT last FROM log_position WHERE topic = %s", topic)
        assert now == 0 or now > last or topic == PACKS
    line.protected.take("disk", 1, 2)  # what was deleted is stored anew
    line.protected.check()


class FullStore(MemoryStore):
    """A bucket that takes nothing."""

    def put(self, key: str, body: Body) -> None:
        raise UnavailableError(f"object {key}: no answer")


def test_scenario_14_a_domain_exists_only_once_its_wrapped_keys_are_in_the_bucket(
    site: CatalogSite,
) -> None:
    kek = KeyEncryptionKey.generate()
    with pytest.raises(UnavailableError):
        ensure_tenant(site.coordinator, KeyVault(FullStore(), kek), TENANT)
    assert find_tenant(site.coordinator, TENANT) is None
    store = MemoryStore()
    ensure_tenant(site.coordinator, KeyVault(store, kek), TENANT)
    tenant = find_tenant(site.coordinator, TENANT)
    assert tenant is not None
    assert KeyVault(store, kek).get(tenant.domain, tenant.key_id).domain == tenant.domain


def test_scenario_16_a_reader_of_the_log_misses_no_transaction(site: CatalogSite) -> None:
    """B has begun second and would commit first; it gets its position when A has ended."""
    protect(site, "a")
    protect(site, "b")
    a, b = Worker(site, open_on(site, "a")), Worker(site, open_on(site, "b"))
    first, second = a.claim(), b.claim()
    with site.holding_log(PACKS):
        of_a = site.start(a.register, first, item(1))
        site.wait_until_waiting(1)
        of_b = site.start(b.register, second, item(2))
        site.wait_until_waiting(2)
        assert read_log(site.catalog, PACKS, 0, 10) == []
    assert of_a.result() == of_b.result() == {}
    events = read_log(site.catalog, PACKS, 0, 10)
    assert [event.envelope.position for event in events] == [1, 2]


def test_scenario_17_a_head_that_moved_refuses_the_seal(site: CatalogSite) -> None:
    """Two manifests never continue one head."""
    protect(site, "vm")
    take_snapshot(site, "vm", item(1))
    late = Worker(site, open_on(site, "vm"))
    late.finish({})
    site.sql("UPDATE volume_group SET head_sequence = head_sequence + 1")
    assert isinstance(late.seal(), Refused)


def test_scenario_17_a_rebuild_brings_back_neither_rejected_nor_expired_snapshots(
    line: Timeline,
) -> None:
    """The manifest of the expired one was not deleted yet; the checkpoint tells what it was."""
    for content in ((1,), (2,), (3,)):
        line.protected.take("disk", *content)
    (expired, *_) = line.protected.objects("manifests/")
    body = line.store.get(expired)
    assert line.protected.expire("disk", 1)
    line.protected.collect()
    line.store.put(expired, body)
    line.checkpoints.write()
    line.go_back(line.dump())
    line.checkpoints.compare()
    line.reconcile()
    assert line.live() == {("disk", 2), ("disk", 3)}


def keep(site: CatalogSite, last: int, for_seconds: int) -> None:
    rule = RetentionPolicy(keep_last=last, keep_for_seconds=for_seconds)
    set_retention(site.catalog, TENANT, "vm", rule, may_shorten=True)


def test_scenario_19_a_clock_that_jumps_expires_nothing(site: CatalogSite) -> None:
    protect(site, "vm")
    for number in range(3):
        take_snapshot(site, "vm", item(number))
    keep(site, last=1, for_seconds=3600)
    site.sql("UPDATE snapshot SET sealed_at = sealed_at - interval '10 days'")
    site.sql("UPDATE retention_clock SET trusted_at = now() - interval '30 days'")
    assert observe_clock(site.catalog, None, 0).halted
    assert Retention(site.catalog).round() == 0


def test_scenario_19_a_floor_by_count_needs_no_clock(site: CatalogSite) -> None:
    protect(site, "vm")
    for number in range(3):
        take_snapshot(site, "vm", item(number))
    keep(site, last=2, for_seconds=3600)
    age = timedelta(days=30)
    site.sql("UPDATE snapshot SET sealed_at = sealed_at - %s", age)
    site.sql("UPDATE retention_clock SET trusted_at = now()")
    assert Retention(site.catalog).round() == 1
    assert site.sql("SELECT sequence FROM snapshot WHERE state = 'l' ORDER BY 1") == [(2,), (3,)]
