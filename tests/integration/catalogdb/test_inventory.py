"""Tenants, nodes, groups and volumes, added by many at once."""

from uuid import uuid4

import pytest

from libs.catalogdb.nodes.announcing import announce_node
from libs.catalogdb.protected import (
    Node,
    add_volume,
    create_tenant,
    find_node,
    find_tenant,
    group_of,
    list_volumes,
)
from libs.errors import BadInputError, ConflictError, NotFoundError
from tests.support.catalog import BOOT, NODE, TENANT, CatalogSite, protect


def test_a_tenant_created_by_many_at_once_has_one_domain(site: CatalogSite) -> None:
    """Scenario 14: the key objects of those who were second are never used."""
    creating = [
        site.start(create_tenant, site.coordinator, TENANT, uuid4(), uuid4()) for _ in range(6)
    ]
    tenants = {one.result() for one in creating}
    assert tenants == {find_tenant(site.coordinator, TENANT)}
    assert site.sql("SELECT count(*) FROM domain") == [(1,)]
    assert create_tenant(site.coordinator, TENANT, uuid4(), uuid4()) in tenants


def test_tenants_have_domains_of_their_own(site: CatalogSite) -> None:
    """Scenario 21."""
    one, other = protect(site, "vm"), protect(site, "vm", tenant="other")
    assert one.domain_no != other.domain_no
    assert [volume.name for volume in list_volumes(site.coordinator, "other")] == ["vm"]
    assert find_tenant(site.coordinator, "third") is None


def test_a_volume_added_by_many_at_once_is_one_volume(site: CatalogSite) -> None:
    protect(site, "other")
    adding = [
        site.start(add_volume, site.coordinator, TENANT, "vm", "vm", NODE.name, "/dev/vm")
        for _ in range(6)
    ]
    assert len({one.result() for one in adding}) == 1
    assert [volume.name for volume in list_volumes(site.coordinator, TENANT)] == ["other", "vm"]


@pytest.mark.parametrize(
    ("name", "group", "path"),
    [
        ("vm", "vm", "/dev/other"),
        ("vm", "db", "/dev/vm"),
        ("db", "db", "/dev/db"),
        ("db", "new", "/dev/db"),
        ("new", "vm", "/dev/new"),
        ("new", "data", "/dev/new"),
        ("data", "data", "/dev/data"),
    ],
    ids=[
        "the same volume with another path",
        "the same volume in another group",
        "named like the group of others that it joins",
        "named like a group that it does not join",
        "in the group of a volume of that name",
        "in a new group named like a volume",
        "the same volume in a group of its own",
    ],
)
def test_a_name_means_one_thing(site: CatalogSite, name: str, group: str, path: str) -> None:
    """NAME@POINT is a volume or a group, and one of them only."""
    protect(site, "vm")
    protect(site, "db", "data", "log")
    with pytest.raises(ConflictError):
        add_volume(site.coordinator, TENANT, name, group, NODE.name, path)
    assert len(list_volumes(site.coordinator, TENANT)) == 3


def test_of_two_who_give_one_name_to_a_volume_and_a_group_the_second_is_refused(
    site: CatalogSite,
) -> None:
    protect(site, "other")
    calls = [("x", "y"), ("z", "x")]
    with site.holding("SELECT FROM tenant FOR UPDATE"):
        adding = [
            site.start(add_volume, site.coordinator, TENANT, name, group, NODE.name, "/dev/vm")
            for name, group in calls
        ]
        site.wait_until_waiting(2)
    errors = [one.exception() for one in adding]
    assert sorted(type(error).__name__ for error in errors) == ["ConflictError", "NoneType"]


def test_volumes_and_groups_are_found_by_either_name(site: CatalogSite) -> None:
    protect(site, "db", "data", "log")
    assert [group_of(site.coordinator, TENANT, name) for name in ("db", "log")] == ["db", "db"]
    with pytest.raises(NotFoundError, match="vm"):
        group_of(site.coordinator, TENANT, "vm")
    with pytest.raises(NotFoundError):
        group_of(site.coordinator, "other", "db")


def test_unknown_tenants_and_nodes_are_not_found(site: CatalogSite) -> None:
    protect(site, "vm")
    with pytest.raises(NotFoundError, match="tenant other"):
        add_volume(site.coordinator, "other", "new", "new", NODE.name, "/dev/new")
    with pytest.raises(NotFoundError, match="node node-2"):
        add_volume(site.coordinator, TENANT, "new", "new", "node-2", "/dev/new")
    with pytest.raises(NotFoundError, match="node node-2"):
        find_node(site.coordinator, "node-2")
    assert site.sql("SELECT name FROM volume_group") == [("vm",)]


def test_a_node_is_known_as_it_last_announced_itself(site: CatalogSite) -> None:
    announce_node(site.coordinator, NODE)
    moved = Node(NODE.name, "http://elsewhere:1", "elsewhere:2", BOOT)
    with pytest.raises(ConflictError, match="has changed meanwhile"):
        announce_node(site.coordinator, moved)  # judged as if it were new
    announce_node(site.coordinator, moved, NODE)
    announce_node(site.coordinator, moved)
    assert find_node(site.coordinator, NODE.name) == moved


def test_a_name_that_sql_cannot_hold_is_the_callers_mistake(site: CatalogSite) -> None:
    with pytest.raises(BadInputError, match="NUL"):
        find_tenant(site.coordinator, "a\0b")
