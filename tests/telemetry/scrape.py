"""What Prometheus would read, by name and labels."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from podium_server.telemetry.registry import Registry


@dataclass(frozen=True)
class Scrape:
    """One answer of `/metrics`."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]

    def __call__(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of that name whose labels include these; 0 where there are none."""
        wanted = labels.items()
        return sum(value for (known, its), value in self.samples.items() if known == name and its >= set(wanted))

    def labels(self, label: str) -> set[str]:
        """Return the values of a label over all metrics of ours."""
        return {
            value for (name, its) in self.samples for key, value in its if key == label and name.startswith("podium_")
        }


def read(text: str) -> Scrape:
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in samples, f"{key} is there twice"
            samples[key] = sample.value
    return Scrape(samples)


def of(registry: Registry) -> Scrape:
    return read(generate_latest(registry.prometheus).decode())


def at(address: str) -> Scrape:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        return read(answer.read().decode())
