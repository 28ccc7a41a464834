"""What a snapshot costs the catalog: transactions of all services, of one volume and of a group."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.running import TENANT, RunningSite, eventually
from tests.support.transactions import Transaction, watching

MIB = 1 << 20
#: Of each volume.
SIZE_BYTES = 64 * MIB
#: Transactions of a group's snapshot, compared with those of one volume's.
RATIO_MAX = 1.3
VOLUME_COUNT = 3
#: Snapshots of one volume; the cheapest counts. They differ only where two events come together.
ROUNDS = 3
#: Snapshots of a group, until one is cheap enough: on a slow machine fewer events come together.
GROUP_ROUNDS_MAX = 12

#: What is done every second or few, however many parts there are (`chunker/test_together.py` and
#: `coordinator/test_many_sessions.py` count that); of the catalog service, all but the relay.
BY_TIME = {
    ("chunker", "renew"),
    ("chunker", "closed_attempts"),
    ("chunker", "store_offsets"),
    ("coordinator", "captures_heard"),
    ("coordinator", "heard_again"),
    ("coordinator", "open_parts"),
    ("coordinator", "read_token_state"),
    ("restore", "read_token_state"),
    ("coordinator", "report_reads"),
}
RELAY = {"unpublished_topics", "read_log", "mark_published"}


def is_by_time(one: Transaction) -> bool:
    if one.service == "catalog":
        return one.name not in RELAY
    return (one.service, one.name) in BY_TIME


@dataclass(frozen=True)
class Cost:
    """Transactions from the request of a snapshot to the seal, until everybody knows of it."""

    every: tuple[Transaction, ...]

    @property
    def count(self) -> int:
        return sum(not is_by_time(one) for one in self.every)


class Volumes:
    """A group of volumes on disk that has a snapshot."""

    def __init__(self, site: RunningSite, group: str, count: int) -> None:
        self.site, self.group = site, group
        self.paths = [site.folder / f"{group}-{number}" for number in range(count)]
        for path in self.paths:
            path.write_bytes(os.urandom(SIZE_BYTES))
            body = {"name": path.name, "group": group, "path": str(path)}
            site.coordinator.post(f"/v1/tenants/{TENANT}/volumes", body)
        assert site.take(group)["state"] == "sealed"

    def costs(self, changed_bytes: int, rounds: int) -> Iterator[Cost]:
        """Of some snapshots, each after so much was written to each volume."""
        for _ in range(rounds):
            for path in self.paths:
                with path.open("r+b") as file:
                    file.write(os.urandom(changed_bytes))
            yield self._cost()

    def _cost(self) -> Cost:
        site = self.site
        with watching(site) as watched:
            session = site.begin(self.group)
            sealed = "SELECT FROM snapshot WHERE session = %s"
            eventually("sealed", lambda: site.sql(sealed, session))
            captures = site.sql("SELECT capture FROM part WHERE session = %s", session)
            eventually("told", lambda: not any(site.capture_state(row[0]) for row in captures))
            # The request is an act that is published by time: for each snapshot alike.
            acts = "SELECT FROM audit WHERE number > (SELECT number FROM audit_position)"
            eventually("audited", lambda: not site.sql(acts))
            behind = "SELECT FROM log_position WHERE last > published"
            eventually("published", lambda: not site.sql(behind))
        return Cost(tuple(watched.transactions))


@pytest.fixture(scope="module")
def one(site: RunningSite) -> Volumes:
    return Volumes(site, "counted-one", 1)


@pytest.fixture(scope="module")
def three(site: RunningSite) -> Volumes:
    return Volumes(site, "counted-three", VOLUME_COUNT)


@pytest.mark.parametrize("changed_bytes", [0, 65536, 4 * MIB])
def test_a_group_costs_little_more_than_a_volume(
    one: Volumes, three: Volumes, changed_bytes: int
) -> None:
    alone = min(one.costs(changed_bytes, ROUNDS), key=lambda cost: cost.count)
    for together in three.costs(changed_bytes, GROUP_ROUNDS_MAX):
        if together.count <= RATIO_MAX * alone.count:
            break
    for name in sorted(
        {*alone.every, *together.every}, key=lambda one: (is_by_time(one), str(one))
    ):
        print(
            f"{name.service:12} {name.name:28} {alone.every.count(name):3} "
            f"{together.every.count(name):3} {'by time' if is_by_time(name) else ''}"
        )
    print(f"{alone.count} for one, {together.count} for three, {together.count / alone.count:.2f}")
    assert together.count <= RATIO_MAX * alone.count
