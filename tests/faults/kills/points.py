"""Where processes are killed: exact points of the protocol, seen from outside.

A point is a request between two processes, and a moment before the server gets it or after it has
answered and before the client knows. Killed is who sends it, who serves it, or a third process.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.faults.proxies.link import Trigger
from tests.faults.site import SECOND_CHUNKER

#: As a victim: whoever sends the request.
SENDER = "its sender"


@dataclass(frozen=True)
class Point:
    """One place to kill at."""

    victim: str
    proxy: str
    pattern: str
    before: bool

    def __str__(self) -> str:
        when = "before" if self.before else "after"
        return f"{self.victim} {when} {self.pattern}"

    def trigger(self, nth: int, kill: Callable[[str], object]) -> Trigger:
        """The trigger that kills at the ``nth`` such request."""

        def strike(sender: str) -> None:
            kill(sender if self.victim == SENDER else self.victim)

        if self.before:
            return Trigger(self.pattern, nth, before=strike)
        return Trigger(self.pattern, nth, after=strike)


_PACK, _MANIFEST = "chunker.* PUT packs/", "chunker.* PUT manifests/"
_CHUNKER, _COORDINATOR = "chunker.* COMMIT", "coordinator COMMIT"
_CATALOG, _RESTORE = "catalog COMMIT", "restore COMMIT"
_AGENT_EVENTS, _RELAY = "agent produce", "catalog produce"
_READING, _NODE_READ = "chunker.* fetch", "(chunker|restore).* GET packs/"

#: Request, the proxy it passes, who serves it, and who else may die just then.
_REQUESTS = (
    (_PACK, "s3_proxy", "minio", ("agent", "coordinator", "catalog")),
    (_MANIFEST, "s3_proxy", "minio", ("agent", "coordinator", "postgres")),
    (_NODE_READ, "s3_proxy", "minio", ("postgres",)),
    (_CHUNKER, "postgres_proxy", "postgres", ("agent", "coordinator", SECOND_CHUNKER)),
    (_COORDINATOR, "postgres_proxy", "postgres", ("agent", "chunker")),
    (_CATALOG, "postgres_proxy", "postgres", ("chunker", "kafka")),
    (_RESTORE, "postgres_proxy", "postgres", ("minio",)),
    (_AGENT_EVENTS, "kafka_proxy", "kafka", ("chunker", SECOND_CHUNKER)),
    (_RELAY, "kafka_proxy", "kafka", ("postgres",)),
    (_READING, "kafka_proxy", "kafka", ("agent",)),
    ("want|reread", "span_proxy", "agent", ("coordinator", "restore")),
    ("hello", "span_proxy", "agent", ()),
)

POINTS = tuple(
    Point(victim, proxy, pattern, before)
    for pattern, proxy, server, others in _REQUESTS
    for victim in (SENDER, server, *others)
    for before in (True, False)
)

#: A broker takes seconds to come back, during which little else can be tried: fewer of its kills.
_SLOW = "kafka"
_SLOW_SHARE = 0.34
_NTH_MAX = 2


def plan(rng: random.Random, count: int) -> Iterator[tuple[Point, int]]:
    """``count`` points in random order, each as often as others, and at which such request."""
    while True:
        for point in rng.sample(POINTS, len(POINTS)):
            if point.victim == _SLOW and rng.random() > _SLOW_SHARE:
                continue
            if count == 0:
                return
            count -= 1
            yield point, rng.randint(1, _NTH_MAX)
