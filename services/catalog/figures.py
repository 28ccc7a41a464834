"""Metrics of everything that is protected: read from the catalog now and then, shown at a scrape.

A scrape never waits for Postgres. It shows what the loop has read last, and how old that is. The
counters are rows of the catalog, so a restart of the service does not set them back. Several
catalog services show the same figures: take one of them, or `max`.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from libs.catalogdb.figures import Figures, StoredFigures, read_figures, read_stored
from libs.catalogdb.notifications.opening import Kind
from libs.catalogdb.pool import Catalog
from libs.runtime.signals import Stop

#: How often the figures are read.
FIGURES_INTERVAL_SECONDS = 30.0
#: How often the sizes are read that need a look at every pack.
_STORED_INTERVAL_SECONDS = 900.0
#: Groups, volumes and nodes that have series of their own at most, the oldest ones: with so many a
#: scrape is some 3 MB. `backcast_groups` and `backcast_volumes` say how many there are.
SERIES_COUNT_MAX = 10_000


class FiguresCollector(Collector):
    """What was read last, as metrics. Safe from any thread.

    Args:
        catalog: the catalog, in the catalog service's role.
        registry: gets the metrics.
    """

    def __init__(self, catalog: Catalog, registry: CollectorRegistry) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._figures: Figures | None = None
        self._stored: Sequence[StoredFigures] = ()
        self._read_at = self._stored_at = float("-inf")
        registry.register(self)

    def round(self, _stop: Stop, _progressed: Callable[[], None]) -> None:
        """Read the figures; sizes of packs only where they are due."""
        figures = read_figures(self._catalog, SERIES_COUNT_MAX)
        if time.monotonic() - self._stored_at >= _STORED_INTERVAL_SECONDS:
            self._stored = read_stored(self._catalog)
            self._stored_at = time.monotonic()
        with self._lock:
            self._figures, self._read_at = figures, time.monotonic()

    def collect(self) -> Iterator[Metric]:
        """All metrics; none before the first figures were read."""
        with self._lock:
            figures, read_at = self._figures, self._read_at
        if figures is None:
            return
        yield _gauge(
            "backcast_figures_age_seconds",
            "Since when the figures of groups, volumes and nodes were not read anew.",
            (),
            [((), time.monotonic() - read_at)],
        )
        yield from _of_groups(figures)
        yield from _of_volumes(figures)
        yield from _of_tally(figures)
        yield from _of_installation(figures)
        yield from _of_stored(self._stored)


def _of_groups(figures: Figures) -> Iterator[Metric]:
    labels = ("tenant", "group")
    yield _gauge("backcast_groups", "Groups that there are.", (), [((), figures.group_count)])
    yield _gauge(
        "backcast_group_last_sealed_timestamp_seconds",
        "When the newest snapshot of a group was sealed; a group without one has no series.",
        labels,
        [((one.tenant, one.group), one.sealed_at) for one in figures.groups if one.sealed_at],
    )
    yield _gauge(
        "backcast_group_last_session_rejected",
        "1 if the last session of a group was rejected, else 0.",
        labels,
        [((one.tenant, one.group), float(one.rejected)) for one in figures.groups],
    )


def _of_volumes(figures: Figures) -> Iterator[Metric]:
    labels, volumes = ("tenant", "volume"), figures.volumes
    yield _gauge("backcast_volumes", "Volumes that there are.", (), [((), figures.volume_count)])
    yield _gauge(
        "backcast_volume_size_bytes",
        "Size of a volume at its newest snapshot.",
        labels,
        [((one.tenant, one.volume), one.size_bytes) for one in volumes],
    )
    yield _gauge(
        "backcast_volume_last_read_bytes",
        "What the newest snapshot has read of a volume.",
        labels,
        [((one.tenant, one.volume), one.read_bytes) for one in volumes],
    )
    yield _gauge(
        "backcast_volume_last_stored_bytes",
        "What the newest snapshot has stored of a volume.",
        labels,
        [((one.tenant, one.volume), one.stored_bytes) for one in volumes],
    )
    yield _gauge(
        "backcast_volume_last_tracking_lost",
        "1 if the newest snapshot has compared all of a volume, as nobody knew what changed.",
        labels,
        [((one.tenant, one.volume), float(one.lost)) for one in volumes],
    )


def _of_tally(figures: Figures) -> Iterator[Metric]:
    yield _counter(
        "backcast_sessions",
        "Sessions that have ended: sealed, or the code of their rejection.",
        ("tenant", "code"),
        [((one.tenant, one.code), one.sessions) for one in figures.tally],
    )
    sealed = [one for one in figures.tally if one.code == "sealed"]
    for name, text in (
        ("read", "Bytes that sealed snapshots have read of their volumes."),
        ("changed", "Bytes that sealed snapshots have found changed."),
        ("sent", "Bytes that agents have sent for sealed snapshots."),
        ("stored", "Bytes that sealed snapshots have written to the store."),
    ):
        yield _counter(
            f"backcast_snapshot_{name}_bytes",
            text,
            ("tenant",),
            [((one.tenant,), getattr(one, f"{name}_bytes")) for one in sealed],
        )


def _of_installation(figures: Figures) -> Iterator[Metric]:
    none = {(kind.value, "error"): 0 for kind in Kind}
    yield _gauge(
        "backcast_notifications",
        "Notifications that are open; `backcast notification list` shows them.",
        ("kind", "severity"),
        sorted((none | figures.notifications).items()),
    )
    yield _gauge(
        "backcast_damaged_packs",
        "Live packs of which something can be read in no store.",
        ("tenant",),
        [((tenant,), count) for tenant, count in sorted(figures.damaged_packs.items())],
    )
    yield _gauge(
        "backcast_node_seen_timestamp_seconds",
        "When the agent of a node last announced itself.",
        ("node",),
        [((one.node,), one.seen_at) for one in figures.nodes],
    )
    yield _gauge(
        "backcast_relay_lag_seconds",
        "Age of the oldest event of a topic that Kafka has not acknowledged; 0: there is none.",
        ("topic",),
        [((topic,), seconds) for topic, seconds in figures.relay_lag_seconds.items()],
    )


def _of_stored(stored: Sequence[StoredFigures]) -> Iterator[Metric]:
    yield _gauge(
        "backcast_tenant_packs",
        "Live packs of a tenant, read every 15 minutes.",
        ("tenant",),
        [((one.tenant,), one.packs) for one in stored],
    )
    yield _gauge(
        "backcast_tenant_stored_bytes",
        "Bytes of a tenant's live packs, read every 15 minutes.",
        ("tenant",),
        [((one.tenant,), one.stored_bytes) for one in stored],
    )


_Samples = Iterable[tuple[Sequence[str], float]]


def _gauge(name: str, text: str, labels: Sequence[str], samples: _Samples) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _counter(name: str, text: str, labels: Sequence[str], samples: _Samples) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
