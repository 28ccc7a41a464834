"""What the restore service has fetched from the store."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from libs.reading.frames import Tally


class FetchMetrics(Collector):
    """Frames and bytes fetched since the start, by what the frames hold."""

    def __init__(self, **tallies: Tally) -> None:
        self._tallies = tallies

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The totals now."""
        frames = CounterMetricFamily(
            "backcast_restore_fetched_frames", "Frames fetched from the store.", labels=["kind"]
        )
        stored_bytes = CounterMetricFamily(
            "backcast_restore_fetched_bytes",
            "Stored bytes fetched from the store, in bytes.",
            labels=["kind"],
        )
        for kind, tally in self._tallies.items():
            frames.add_metric([kind], tally.frames)
            stored_bytes.add_metric([kind], tally.stored_bytes)
        yield frames
        yield stored_bytes
