"""The metrics of one server, as prometheus_client keeps them: counters that are added to, and figures read when asked.

What is known elsewhere already (queues, caches, breakers) is not counted a second time: a reading fetches it when
Prometheus comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from podium_server.telemetry.metrics import Metric


class Reading(NamedTuple):
    """One figure of now."""

    metric: Metric
    value: float
    labels: tuple[str, ...] = ()


Reader: TypeAlias = Callable[[], Iterable[Reading]]
"""Called in the thread that answers Prometheus: it may look at what the event loop changes, and must not wait."""


class Registry:
    """Makes each metric once."""

    def __init__(self) -> None:
        self.prometheus = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.prometheus)
        PlatformCollector(registry=self.prometheus)
        GCCollector(registry=self.prometheus)
        self._readers: list[Reader] = []
        self.prometheus.register(_Readings(self._readers))

    def counter(self, metric: Metric) -> Counter:
        """Return a counter to add to."""
        return Counter(metric.name, metric.help, metric.labels, registry=self.prometheus)

    def gauge(self, metric: Metric) -> Gauge:
        """Return a gauge to set."""
        return Gauge(metric.name, metric.help, metric.labels, registry=self.prometheus)

    def histogram(self, metric: Metric) -> Histogram:
        """Return a histogram to enter observations into."""
        return Histogram(metric.name, metric.help, metric.labels, registry=self.prometheus, buckets=metric.buckets)

    def read(self, reader: Reader) -> None:
        """Ask `reader` whenever Prometheus comes."""
        self._readers.append(reader)


class _Readings(Collector):
    def __init__(self, readers: list[Reader]) -> None:
        self._readers = readers

    def describe(self) -> list[GaugeMetricFamily]:
        return []  # without it, registering would read everything once, before there is anything

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for reader in tuple(self._readers):
            for metric, value, labels in reader():
                family = families.get(metric.name)
                if family is None:
                    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
                    family = families[metric.name] = kind(metric.name, metric.help, labels=metric.labels)
                family.add_metric(labels, value)
        yield from families.values()
