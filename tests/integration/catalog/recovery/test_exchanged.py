"""A catalog is made anew from a store some of whose objects were exchanged."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.cluster import LocalCluster
from libs.errors import WrongKeyError
from libs.store.folder import FolderStore
from libs.store.layout import KEYS_PREFIX, MANIFESTS_PREFIX, PACKS_PREFIX
from tests.integration.catalog.recovery.timeline import Timeline, timeline
from tests.support.exchanging import exchange


@pytest.fixture
def line(servers: LocalCluster, tmp_path: Path) -> Iterator[Timeline]:
    """Two tenants with a snapshot each, of whom only the store knows."""
    with timeline(servers.postgres.dsn, FolderStore(tmp_path)) as made:
        made.protected.protect("disk")
        made.protected.protect("theirs", tenant="other")
        made.protected.take("disk", 1, 2)
        made.protected.take("theirs", 3, 4)
        made.lose_everything()
        yield made


def test_nothing_is_concluded_while_wrapped_keys_are_exchanged(line: Timeline) -> None:
    keys = [stat.key for stat in line.store.list(KEYS_PREFIX)]
    exchange(line.store, *keys)
    with pytest.raises(WrongKeyError, match="exchanged"):
        line.reconcile()
    assert line.live() == set()
    exchange(line.store, *keys)
    assert line.reconcile().unreadable == []
    assert line.live() == {("disk", 1), ("theirs", 1)}
    line.protected.check()


@pytest.mark.parametrize("prefix", [MANIFESTS_PREFIX, PACKS_PREFIX])
def test_exchanged_objects_of_two_tenants_are_taken_for_neither(
    line: Timeline, prefix: str
) -> None:
    keys = sorted(stat.key for stat in line.store.list(prefix))
    assert len(keys) == 2
    exchange(line.store, *keys)
    assert sorted(line.reconcile().unreadable) == keys
