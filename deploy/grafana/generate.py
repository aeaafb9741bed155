# ruff: noqa: T201  # a command says what it finds
"""Generates the Grafana dashboard from the table of metrics; `--check` changes nothing and says whether it is stale.

A panel's query is written with the metrics themselves (`telemetry.metrics`), so that it cannot name one that is not
there, or a label that it does not have.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podium_server.telemetry import metrics as m
from podium_server.telemetry.metrics import Metric

TARGET = Path(__file__).with_name("podium.json")
_SOURCE = {"type": "prometheus", "uid": "${source}"}
_WIDTH = 24


@dataclass(frozen=True)
class Query:
    """What a line of a panel shows: an expression, and how each line is called."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel. `unit` is as Grafana calls it."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    stacked: bool = False


def selected(metric: Metric, series: str = "", **labels: str) -> str:
    """Return a selector of the metric's series, for the servers and pipelines that are looked at."""
    wanted = {"instance": "$instance", **labels}
    if "pipeline" in metric.labels:
        wanted.setdefault("pipeline", "$pipeline")
    for label in labels:
        if label not in metric.labels:
            raise ValueError(f"{metric.name} has no label {label!r} (it has {', '.join(metric.labels) or 'none'})")
    name = f"{metric.name}_{series}" if series else metric.name
    if name not in metric.series:
        raise ValueError(f"{metric.name} has no series {name}")
    listed = ", ".join(f'{label}=~"{value}"' for label, value in wanted.items())
    return f"{name}{{{listed}}}"


def _by(metric: Metric, labels: tuple[str, ...]) -> str:
    for label in labels:
        if label not in metric.labels:
            raise ValueError(f"{metric.name} has no label {label!r} (it has {', '.join(metric.labels) or 'none'})")
    return f" by ({', '.join(labels)})" if labels else ""


def _legend(labels: tuple[str, ...]) -> str:
    return " ".join(f"{{{{{label}}}}}" for label in labels) or "all"


def rate(metric: Metric, *by: str, **labels: str) -> Query:
    """How much a second, summed."""
    return Query(f"sum{_by(metric, by)} (rate({selected(metric, **labels)}[$__rate_interval]))", _legend(by))


def now(metric: Metric, *by: str, how: str = "sum") -> Query:
    """How much now."""
    return Query(f"{how}{_by(metric, by)} ({selected(metric)})", _legend(by))


def quantile(metric: Metric, q: float, *by: str, **labels: str) -> Query:
    """A quantile of a histogram."""
    grouped = f" by ({', '.join(('le', *by))})"
    _by(metric, by)
    inner = f"sum{grouped} (rate({selected(metric, 'bucket', **labels)}[$__rate_interval]))"
    return Query(f"histogram_quantile({q}, {inner})", f"p{q * 100:g} {_legend(by)}")


def ratio(part: Metric, whole: Metric, *by: str) -> Query:
    """One rate by another."""
    return Query(f"{rate(part, *by).expression} / {rate(whole, *by).expression}", _legend(by))


def share(part: Metric, rest: Metric, *by: str) -> Query:
    """One rate by the sum of both."""
    one, other = rate(part, *by).expression, rate(rest, *by).expression
    return Query(f"{one} / ({one} + {other})", _legend(by))


ROWS: dict[str, tuple[Panel, ...]] = {
    "Calls": (
        Panel("Calls by code", "reqps", (rate(m.CALLS, "code"),), stacked=True),
        Panel(
            "Latency of Rerank", "s", tuple(quantile(m.CALL_SECONDS, q, method=".*/Rerank") for q in (0.5, 0.95, 0.99))
        ),
        Panel("Refused, by reason and limit", "reqps", (rate(m.REFUSALS, "reason", "limit"),), stacked=True),
        Panel("At work", "short", (now(m.CALLS_RUNNING), now(m.REQUESTS_RUNNING), now(m.REQUESTS_MAX))),
    ),
    "Requests": (
        Panel("Requests by outcome", "reqps", (rate(m.REQUESTS, "pipeline", "outcome"),), stacked=True),
        Panel("Latency by pipeline", "s", tuple(quantile(m.REQUEST_SECONDS, q, "pipeline") for q in (0.5, 0.95))),
        Panel("Latency by stage (p95)", "s", (quantile(m.STAGE_SECONDS, 0.95, "pipeline", "stage"),)),
        Panel("Rounds (p95)", "short", (quantile(m.ROUNDS, 0.95, "pipeline"),)),
        Panel("Candidates (p95)", "short", (quantile(m.CANDIDATES, 0.95, "pipeline"),)),
        Panel("Warnings", "reqps", (rate(m.WARNINGS, "pipeline", "code"),), stacked=True),
    ),
    "What it costs": (
        Panel("Money", "currencyUSD", (rate(m.COST, "model"),), stacked=True),
        Panel("Tokens", "short", (rate(m.TOKENS, "model", "kind"),)),
        Panel("Calls to models", "reqps", (rate(m.MODEL_CALLS, "model"), rate(m.RETRIES, "model"))),
        Panel("Questions", "reqps", (rate(m.QUESTIONS, "model"),)),
        Panel("Stages without a price", "reqps", (rate(m.COST_UNKNOWN, "model"),)),
        Panel("Spent for callers who went away", "short", (rate(m.CANCELLED_TOKENS), rate(m.CANCELLED_CALLS))),
        Panel("Their money", "currencyUSD", (rate(m.CANCELLED_COST),)),
    ),
    "Models": (
        Panel("Breakers (0 closed, 2 open)", "short", (now(m.BREAKER_STATE, "model", how="max"),)),
        Panel("Opened and refused", "short", (rate(m.BREAKER_OPENED, "model"), rate(m.BREAKER_REFUSED, "model"))),
        Panel("Stages given up", "reqps", (rate(m.STAGES_SKIPPED, "pipeline"),)),
        Panel("Waiting", "short", (now(m.QUEUE, "model"), now(m.UNDER_WAY, "model"))),
        Panel("Oldest of a queue", "s", (now(m.QUEUE_AGE, "model", how="max"),)),
        Panel("Requests and tokens in queues", "short", (now(m.QUEUE_REQUESTS, "model"), now(m.QUEUE_TOKENS, "model"))),
        Panel("Batch fill (without padding)", "percentunit", (ratio(m.BATCH_TOKENS, m.BATCH_PADDED, "model"),)),
        Panel("Pairs of a batch", "short", (ratio(m.BATCH_PAIRS, m.BATCHES, "model"),)),
        Panel(
            "Padded tokens of a batch",
            "short",
            (ratio(m.BATCH_PADDED, m.BATCHES, "model"), now(m.BATCH_TOKENS_MAX, "model", how="max")),
        ),
        Panel("Lanes at work", "short", (rate(m.BUSY_SECONDS, "model"),)),
        Panel(
            "Refused, dropped, failed",
            "reqps",
            (rate(m.QUEUE_REFUSED, "model"), rate(m.QUEUE_DROPPED, "model"), rate(m.FAILED_PAIRS, "model")),
        ),
        Panel("Time by phase", "short", (rate(m.MODEL_SECONDS, "model", "phase"),), stacked=True),
        Panel("Loaded", "short", (now(m.MODEL_LOADED, "model"),)),
        Panel("Replies by what they were", "reqps", (rate(m.REPAIRS, "model", "repair"),), stacked=True),
        Panel("Documents cut", "reqps", (rate(m.TRUNCATED, "model"),)),
    ),
    "Caches": (
        Panel("Hit rate", "percentunit", (share(m.CACHE_HITS, m.CACHE_MISSES, "cache", "model"),)),
        Panel("Questions answered", "reqps", (rate(m.CACHE_ANSWERS, "model"),)),
        Panel("Size", "bytes", (now(m.CACHE_BYTES, "cache", "model"),)),
        Panel("Verdicts not kept", "reqps", (rate(m.VERDICTS_DROPPED),)),
    ),
    "Drift": (
        Panel("Scores of the best", "short", tuple(quantile(m.SCORE, q, "pipeline") for q in (0.1, 0.5, 0.9))),
        Panel("Places moved by the best", "short", tuple(quantile(m.RANK_CHANGE, q, "pipeline") for q in (0.5, 0.9))),
    ),
    "Tenants": (
        Panel("Calls", "reqps", (rate(m.TENANT_CALLS, "tenant", "code"),), stacked=True),
        Panel("Tokens", "short", (rate(m.TENANT_TOKENS, "tenant"),)),
        Panel("Money", "currencyUSD", (rate(m.TENANT_COST, "tenant"),)),
        Panel("Refused", "reqps", (rate(m.ACCESS_REFUSED, "tenant", "reason"),), stacked=True),
    ),
    "Servers": (Panel("Versions", "short", (now(m.BUILD, "version", how="count"),)),),
}


def _panels() -> Iterator[dict[str, Any]]:
    number = y = 0
    for row, panels in ROWS.items():
        number += 1
        yield {"id": number, "type": "row", "title": row, "gridPos": {"x": 0, "y": y, "w": _WIDTH, "h": 1}}
        y += 1
        for place, panel in enumerate(panels):
            number += 1
            x = place % 3 * 8
            yield _panel(number, panel, x, y + place // 3 * 8)
        y += -(-len(panels) // 3) * 8


def _panel(number: int, panel: Panel, x: int, y: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": 8, "h": 8},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0 if panel.unit != "short" else None,
                "custom": {"stacking": {"mode": "normal" if panel.stacked else "none"}, "fillOpacity": 10},
            },
            "overrides": [],
        },
        "targets": [
            {"refId": chr(65 + i), "datasource": _SOURCE, "expr": query.expression, "legendFormat": query.legend}
            for i, query in enumerate(panel.queries)
        ],
    }


def _variable(name: str, metric: Metric, label: str) -> dict[str, Any]:
    query = f"label_values({metric.name}, {label})"
    return {
        "name": name,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
    }


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    return {
        "uid": "podium",
        "title": "Podium",
        "tags": ["podium"],
        "schemaVersion": 41,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "type": "datasource", "query": "prometheus", "label": "Data source"},
                _variable("instance", m.BUILD, "instance"),
                _variable("pipeline", m.REQUESTS, "pipeline"),
            ]
        },
        "panels": list(_panels()),
    }


def main() -> int:
    """Write the dashboard, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where it is stale")
    made = json.dumps(dashboard(), indent=1) + "\n"
    if not parser.parse_args().check:
        TARGET.write_text(made, "utf-8")
        return 0
    if TARGET.read_text("utf-8") == made:
        return 0
    print(f"{TARGET} is stale: run `python deploy/grafana/generate.py`")
    return 1


if __name__ == "__main__":
    sys.exit(main())
