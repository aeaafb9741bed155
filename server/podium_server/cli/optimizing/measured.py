"""A model as float32, as it is served now and as int8: run side by side, and told of in one table."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from podium_server.backends.openvino.runtime import WEIGHTS_FILE, native_precision
from podium_server.cli.optimizing import measured_process
from podium_server.cli.optimizing.graded import Graded, judgments

_PASSES = 3
"""The fastest counts: whatever else the machine does can only slow a pass down."""


@dataclass(slots=True)
class Row:
    """One way to run the model, measured."""

    name: str
    folder: Path
    precision: Literal["f32", "bf16"]
    scores: list[NDArray[np.float32]] = field(default_factory=list)
    per_s: float = 0.0
    rss_mib: float | None = None


def measured(source: Path, made: Path, kind: str, measured_on: Sequence[Graded]) -> list[Row]:
    """Return the rows, each run in a process of its own, whose memory is its own, pass by pass in turn."""
    now = native_precision("auto")
    rows = [Row("float32", source, "f32"), Row("int8", made, now)]
    if now != "f32":
        rows.insert(1, Row(now, source, now))
    work = [(each.query, each.texts) for each in measured_on]
    with ExitStack() as stack:
        pools = [stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn"))) for _ in rows]
        for row, pool in zip(rows, pools, strict=True):
            pool.submit(measured_process.load, kind, str(row.folder), row.precision).result()
        for _ in range(_PASSES):
            for row, pool in zip(rows, pools, strict=True):
                row.scores, per_s, row.rss_mib = pool.submit(measured_process.scored, work).result()
                row.per_s = max(row.per_s, per_s)
    return rows


def report(
    rows: Sequence[Row], kind: str, measured_on: Sequence[Graded], judged: dict[str, dict[str, float]] | None
) -> list[list[str]]:
    """Return the table: a line of names, then one for each row."""
    quality = judgments(measured_on, judged)
    header = ["", *(["nDCG@10"] if quality else []), "rank correlation", "largest difference"]
    header += ["pairs/s" if kind == "cross-encoder" else "texts/s", "weights MB", "memory MiB"]
    lines = [header]
    exact = rows[0].scores
    for row in rows:
        line = [row.name]
        if quality:
            line.append(f"{fmean(score(row.scores[i]) for i, score in quality.items()):.4f}")
        correlations = [spearman(ours, want) for ours, want in zip(row.scores, exact, strict=True) if len(want) > 1]
        line.append(f"{fmean(correlations):.4f}" if correlations else "-")
        line.append(f"{max(float(np.abs(a - b).max()) for a, b in zip(row.scores, exact, strict=True)):.4f}")
        line.append(f"{row.per_s:.1f}")
        line.append(f"{(row.folder / WEIGHTS_FILE).stat().st_size / 1e6:.1f}")
        line.append("-" if row.rss_mib is None else f"{row.rss_mib:.0f}")
        lines.append(line)
    return lines


def spearman(ours: NDArray[np.float32], want: NDArray[np.float32]) -> float:
    """Return the rank correlation of two lists of scores, ties sharing their mean rank; 1 where both are constant."""
    a, b = (_ranks(scores) for scores in (ours, want))
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size else float(np.array_equal(a, b))


def _ranks(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    _, groups, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middles: NDArray[np.float64] = ends - (counts - 1) / 2
    return middles[groups]


def table_of(lines: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(lines[0]):
        table.add_column(name, justify="left" if place == 0 else "right")
    for line in lines[1:]:
        table.add_row(*line)
    return table
