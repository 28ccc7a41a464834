"""Metrics in Prometheus' form. A process makes one registry at start, imports register nothing."""

import platform
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from libs.version import VERSION

#: Buckets for durations: from a cached look-up to a long restore, about 3 per decade.
SECONDS_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
#: Buckets for sizes: from a chunk to a pack of the largest size, by powers of four.
BYTES_BUCKETS = tuple(4**power for power in range(8, 14))


def new_registry() -> CollectorRegistry:
    """A registry that already has the process's CPU, memory (now and peak), open files and version.

    Counters and histograms get no `_created` series: they would double the series, and Prometheus
    finds out by itself when a counter began anew.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it out
    registry = CollectorRegistry()
    Gauge(
        "backcast_build_info",
        "Always 1; the labels say which build this is.",
        ["version", "python"],
        registry=registry,
    ).labels(VERSION, platform.python_version()).set(1)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(PeakMemory())
    return registry


class PeakMemory(Collector):
    """The largest resident memory that the process ever had: what memory limits are set by."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Read the peak now; it needs no sampling because the kernel keeps it."""
        yield GaugeMetricFamily(
            "process_resident_memory_peak_bytes",
            "Largest resident memory of the process since it started, in bytes.",
            value=peak_resident_bytes(),
        )


def peak_resident_bytes() -> int:
    """Peak resident memory of this process in bytes (Linux).

    ``getrusage`` is not used: its value survives exec, so a small process started by a large one
    reports the large one's peak.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def method_label(method: str) -> str:
    """The method of a request, unless a client made one up: each would be a new time series."""
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    return method if method in known else "other"
