"""Grants, and a group's list of domains: a domain tag means one domain for ever."""

from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from libs.blockmap.tagged import with_tag
from libs.catalogdb.domains import continue_list, grant_domain
from libs.catalogdb.packs.index import count_by_pack, find_items
from libs.catalogdb.pool import Tx
from libs.catalogdb.protected import Tenant, create_tenant
from libs.catalogdb.sessions.attempts import PackUse
from libs.catalogdb.sessions.sealing import Refused, Sealed, seal
from libs.catalogdb.sessions.session import reject_session
from libs.errors import BadInputError, DamagedDataError, NotFoundError
from tests.support.catalog import TENANT, CatalogSite, Worker, item, open_on, protect


def owner(site: CatalogSite, name: str) -> Tenant:
    return create_tenant(site.coordinator, name, uuid4(), uuid4())


def group_of(site: CatalogSite, name: str) -> UUID:
    ((group,),) = site.sql("SELECT group_id FROM volume_group WHERE name = %s", name)
    return UUID(str(group))


def listed(site: CatalogSite, group: str) -> list[tuple[UUID, bool]]:
    """Domains of a new session, which is rejected at once, and whether they are granted."""
    view = open_on(site, group)
    assert reject_session(site.chunker, "chunker", view.session, "cancelled", "by a test")
    return [(one.domain, one.granted) for one in view.domains]


def test_a_list_begins_with_the_tenants_own_domain_and_grows_by_grants(site: CatalogSite) -> None:
    own = protect(site, "vm").domain
    a, b = owner(site, "a"), owner(site, "b")
    assert listed(site, "vm") == [(own, True)]
    grant_domain(site.coordinator, b.domain, TENANT)
    grant_domain(site.coordinator, b.domain, TENANT)
    assert listed(site, "vm") == [(own, True), (b.domain, True)]
    grant_domain(site.coordinator, a.domain, TENANT)
    assert listed(site, "vm") == [(own, True), (b.domain, True), (a.domain, True)]
    assert listed(site, "vm") == [(own, True), (b.domain, True), (a.domain, True)]


def test_a_tag_means_the_same_domain_for_ever(site: CatalogSite) -> None:
    """Even when the tenant may no longer use it: older snapshots name it by this tag."""
    own = protect(site, "vm").domain
    a, b = owner(site, "a"), owner(site, "b")
    grant_domain(site.coordinator, a.domain, TENANT)
    assert listed(site, "vm")[1:] == [(a.domain, True)]
    site.sql("DELETE FROM domain_grant")
    grant_domain(site.coordinator, b.domain, TENANT)
    assert listed(site, "vm") == [(own, True), (a.domain, False), (b.domain, True)]


def test_an_open_session_keeps_its_list(site: CatalogSite) -> None:
    protect(site, "vm")
    view = open_on(site, "vm")
    grant_domain(site.coordinator, owner(site, "a").domain, TENANT)
    worker = Worker(site, view)
    worker.finish_storing(item(1))
    assert isinstance(worker.seal(), Sealed)


def test_grants_name_what_there_is(site: CatalogSite) -> None:
    own = protect(site, "vm").domain
    with pytest.raises(NotFoundError):
        grant_domain(site.coordinator, uuid4(), TENANT)
    with pytest.raises(NotFoundError):
        grant_domain(site.coordinator, own, "nobody")
    with pytest.raises(BadInputError, match="tenant acme's own"):
        grant_domain(site.coordinator, own, TENANT)


def test_a_list_has_at_most_256_domains(site: CatalogSite) -> None:
    protect(site, "vm")
    for number in range(258):
        grant_domain(site.coordinator, owner(site, f"t{number}").domain, TENANT)
    assert len(listed(site, "vm")) == 256
    assert len(listed(site, "vm")) == 256


def test_a_manifest_with_another_list_is_not_sealed(site: CatalogSite) -> None:
    protect(site, "vm")
    a, b = owner(site, "a"), owner(site, "b")
    grant_domain(site.coordinator, a.domain, TENANT)
    worker = Worker(site, open_on(site, "vm"))
    worker.finish_storing(item(1))
    own, _ = (one.domain for one in worker.view.domains)
    for wrong in ([own], [own, b.domain], [a.domain, own], [own, a.domain, b.domain]):
        refused = seal(site.chunker, worker.view.session, "m/1", b"mac", wrong)
        assert isinstance(refused, Refused)
        assert "list of domains" in refused.reason
    assert isinstance(worker.seal(), Sealed)


def test_what_a_manifest_or_checkpoint_says_continues_the_list_or_is_refused(
    site: CatalogSite,
) -> None:
    own = protect(site, "vm").domain
    a, b = owner(site, "a"), owner(site, "b")
    group = group_of(site, "vm")

    def said(*domains: UUID) -> None:
        with site.catalog.transaction() as tx:
            continue_list(tx, group, domains)

    said(own)
    said(own, a.domain)
    said(own)
    said(own, a.domain, b.domain)
    assert [domain for domain, _ in listed(site, "vm")] == [own, a.domain, b.domain]
    for wrong in ((a.domain,), (own, b.domain), (own, a.domain, b.domain, uuid4())):
        with pytest.raises(DamagedDataError, match="domain tag"):
            said(*wrong)
    assert [domain for domain, _ in listed(site, "vm")] == [own, a.domain, b.domain]


@pytest.fixture
def shared(site: CatalogSite) -> Worker:
    """A session whose list has a domain in which item 1 is stored; item 2 is its own."""
    protect(site, "vm")
    image = protect(site, "image", tenant="images")
    storing = Worker(site, open_on(site, "image", tenant="images"))
    storing.finish_storing(item(1))
    assert isinstance(storing.seal(), Sealed)
    grant_domain(site.coordinator, image.domain, TENANT)
    worker = Worker(site, open_on(site, "vm"))
    worker.store(item(2))
    return worker


def test_an_id_is_found_in_the_domain_of_its_tag_and_nowhere_else(
    site: CatalogSite, shared: Worker
) -> None:
    """Scenario 21: a claim with another domain's id, or with the right id of the wrong domain."""
    asked = [item(1), with_tag(1, item(1)), item(2), with_tag(1, item(2))]
    packs = shared.look_up(*asked)
    assert isinstance(packs, list)
    assert [bool(pack) for pack in packs] == [False, True, True, False]
    with site.chunker.transaction() as tx:
        assert sorted(find_items(tx, shared.domains, asked)) == [1, 2]
        with pytest.raises(DamagedDataError, match="list has 2 domains"):
            find_items(tx, shared.domains, [with_tag(2, item(1))])


def test_a_pack_of_another_domain_is_pinned_counted_and_kept(
    site: CatalogSite, shared: Worker
) -> None:
    packs = shared.look_up(with_tag(1, item(1)), item(2))
    assert isinstance(packs, list)
    theirs, own = packs
    counted = [with_tag(1, item(1))] * 3 + [item(2)]
    assert count_by_pack(site.chunker, shared.domains, counted) == {theirs: 3, own: 1}
    shared.finish({theirs: PackUse(entered=3), own: PackUse(entered=1)})
    assert isinstance(shared.seal(), Sealed)
    assert site.sql(
        """SELECT v.name, u.addresses::int FROM pack_use u JOIN volume v USING (volume_no)
           WHERE pack_no = %s ORDER BY v.name""",
        theirs,
    ) == [("image", 1), ("vm", 3)]


def test_a_look_up_takes_a_statement_for_each_domain_that_occurs(
    site: CatalogSite, shared: Worker
) -> None:
    own, theirs = [item(n) for n in range(500)], [with_tag(1, item(n)) for n in range(500)]
    statements: list[object] = []

    class Counting:
        """A transaction that notes what is executed."""

        def __init__(self, tx: Tx) -> None:
            self._tx = tx

        def execute(self, query: object, *arguments: Any, **how: Any) -> Any:
            statements.append(query)
            return self._tx.execute(query, *arguments, **how)  # type: ignore[call-overload]  # passed on

    with site.chunker.transaction() as tx:
        for ids, count in ((own, 1), (theirs, 1), ([*own, *theirs], 2)):
            statements.clear()
            assert find_items(cast("Tx", Counting(tx)), shared.domains, ids)
            assert len(statements) == count
