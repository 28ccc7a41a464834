"""Snapshots of groups with several volumes."""

from libs.catalogdb.sessions.attempts import PackUse
from libs.catalogdb.sessions.sealing import Sealed
from tests.support.catalog import CatalogSite, Worker, item, open_on


def seal_group(site: CatalogSite, group: str, first: int) -> None:
    """A sealed snapshot of a group, each of whose volumes has a pack of its own."""
    view = open_on(site, group)
    workers = [Worker(site, view, part) for part in range(len(view.parts))]
    for number, worker in enumerate(workers):
        if view.parts[number].base_root is None:
            worker.finish({worker.store(item(first + number)): PackUse(entered=1)})
        else:
            worker.finish({})
    assert isinstance(workers[0].seal(), Sealed)
