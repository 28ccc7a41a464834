"""What is told of VMs that nobody protects."""

from libs.catalogdb.notifications.listing import list_notifications
from libs.catalogdb.notifications.machines import SeenMachine, review_machines
from libs.catalogdb.protected import add_volume
from libs.catalogdb.volumes.removing import remove
from tests.integration.catalogdb.notifications.telling import told_of
from tests.support.catalog import NODE, TENANT, CatalogSite, protect

WEB = SeenMachine(TENANT, "/run/vms/web.qmp")
OTHER = SeenMachine("nobody", "/run/vms/web.qmp2")


def unprotected(site: CatalogSite) -> list[tuple[str, str, str | None]]:
    found = list_notifications(site.catalog)
    assert {one.kind for one in found} <= {"vm-unprotected"}
    return sorted((one.about, one.tenant, one.node) for one in found)


def test_a_vm_is_told_until_a_volume_leads_to_it(site: CatalogSite) -> None:
    protect(site, "disk")
    for _ in range(2):
        review_machines(site.coordinator, NODE.name, [WEB, OTHER])
    other = ("vm/node-1/run/vms/web.qmp2", "*", "node-1")
    assert unprotected(site) == [("vm/node-1/run/vms/web.qmp", TENANT, "node-1"), other]
    path = f"{WEB.socket}/machine"
    add_volume(site.coordinator, TENANT, "web", None, NODE.name, path, driver="qemu")
    review_machines(site.coordinator, NODE.name, [WEB, OTHER])
    assert unprotected(site) == [other]
    remove(site.coordinator, TENANT, "web", "somebody")
    review_machines(site.coordinator, NODE.name, [WEB])
    assert [about for about, _, _ in unprotected(site)] == ["vm/node-1/run/vms/web.qmp"]
    assert told_of(site) == [
        "opened vm-unprotected",
        "opened vm-unprotected",
        "resolved vm-unprotected",
        "opened vm-unprotected",
        "resolved vm-unprotected",
    ]


def test_a_vm_that_is_switched_off_is_not_told(site: CatalogSite) -> None:
    protect(site, "disk")
    review_machines(site.coordinator, NODE.name, [WEB])
    review_machines(site.coordinator, "node-2", [])
    assert len(unprotected(site)) == 1
    review_machines(site.coordinator, NODE.name, [])
    assert unprotected(site) == []


def test_a_path_by_another_driver_protects_no_vm(site: CatalogSite) -> None:
    protect(site, "disk")
    path = f"{WEB.socket}/machine"
    add_volume(site.coordinator, TENANT, "file", None, NODE.name, path)
    review_machines(site.coordinator, NODE.name, [WEB])
    assert len(unprotected(site)) == 1
