"""What a filter tells a monitoring system."""

from collections.abc import Iterator
from typing import get_args

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from libs.nbd.layout import Command
from services.change_capture.drivers.port import LostReason
from services.change_capture.filter.frozen import BreakReason
from services.change_capture.filter.process import VolumeFilter

#: Seconds; a guest notices some hundred milliseconds, and its file system gives up after minutes.
_HOLD_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 10, 60)
_SERVED = {
    Command.READ: "read",
    Command.WRITE: "write",
    Command.FLUSH: "flush",
    Command.TRIM: "trim",
    Command.WRITE_ZEROES: "write-zeroes",
    Command.BLOCK_STATUS: "block-status",
}
_NAME = "backcast_filter_"


def watch(one: VolumeFilter, registry: CollectorRegistry) -> None:
    """Let a registry tell of a filter from now on."""
    holds = Histogram(
        f"{_NAME}hold_seconds",
        "Time for which writes were held at a barrier, in seconds; broken: until its deadline.",
        ["outcome"],
        buckets=_HOLD_BUCKETS,
        registry=registry,
    )
    outcomes = {
        is_broken: holds.labels("broken" if is_broken else "released")
        for is_broken in (False, True)
    }
    one.volume.valve.on_hold_end = lambda seconds, is_broken: outcomes[is_broken].observe(seconds)
    registry.register(_FilterMetrics(one))


class _FilterMetrics(Collector):
    """Figures that are read when somebody asks; a request costs nothing for them."""

    def __init__(self, one: VolumeFilter) -> None:
        self._one = one

    def collect(self) -> Iterator[Metric]:
        """The figures now."""
        yield from self._of_clients()
        yield from self._of_views()
        yield from self._of_tracking()

    def _of_clients(self) -> Iterator[Metric]:
        clients = self._one.clients
        traffic = clients.traffic()
        requests = CounterMetricFamily(
            f"{_NAME}requests", "Requests of NBD clients.", labels=["command"]
        )
        sizes = CounterMetricFamily(
            f"{_NAME}request_bytes", "Bytes that these requests were about.", labels=["command"]
        )
        for command, name in _SERVED.items():
            requests.add_metric([name], traffic.requests[command])
            sizes.add_metric([name], traffic.sizes_bytes[command])
        yield requests
        yield sizes
        yield CounterMetricFamily(
            f"{_NAME}failed_requests", "Requests that the volume has failed.", traffic.failed
        )
        yield GaugeMetricFamily(f"{_NAME}clients", "NBD clients now.", clients.count)
        yield CounterMetricFamily(
            f"{_NAME}refused_clients",
            "NBD clients that were turned away because there were too many.",
            clients.refused_count,
        )

    def _of_views(self) -> Iterator[Metric]:
        cuts = self._one.cuts
        yield GaugeMetricFamily(f"{_NAME}views", "Frozen views that are open.", cuts.view_count)
        yield GaugeMetricFamily(
            f"{_NAME}scratch_bytes",
            "Bytes from before a cut that are kept for open views, in bytes.",
            cuts.kept_bytes,
        )
        broken = CounterMetricFamily(
            f"{_NAME}broken_views", "Frozen views that broke, by reason.", labels=["reason"]
        )
        for kind in get_args(BreakReason):
            broken.add_metric([kind], cuts.broken_views[kind])
        yield broken

    def _of_tracking(self) -> Iterator[Metric]:
        one = self._one
        lost = GaugeMetricFamily(
            f"{_NAME}tracking_lost",
            "1: what was tracked before this epoch of the filter is lost, for this reason.",
            labels=["reason"],
        )
        for reason in get_args(LostReason):
            lost.add_metric([reason], one.cuts.lost is not None and one.cuts.lost.reason == reason)
        yield lost
        yield GaugeMetricFamily(
            f"{_NAME}marked_chunks",
            "Chunks that were written since the last cut.",
            one.volume.marks.count(),
        )
        yield GaugeMetricFamily(
            f"{_NAME}volume_size_bytes", "Size of the volume, in bytes.", one.volume.disk.size_bytes
        )
