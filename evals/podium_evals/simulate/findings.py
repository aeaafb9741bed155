"""What follows from the table: the front, the saving over a sliding window, the papers beside it, the presets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from podium_evals.simulate.strategies import BASELINE, PUBLISHED, ROWS
from podium_evals.simulate.table import Cell, Setting
from podium_evals.statistics import interval

EQUAL = 0.005
"""nDCG@10 that is as good: no further below the baseline's than this."""
HALF = 0.5


@dataclass(frozen=True, slots=True)
class Preset:
    """A pipeline of the built-in configuration, the table's row for it, and the sentence that says why it is there."""

    name: str
    row: str
    why: str


PRESETS = (
    Preset(
        "fast",
        "fast",
        "No call and no token, and with a judge of medium or high noise better than one pass of a sliding window over "
        "the first stage: a model elsewhere has to be a good one before it is worth asking.",
    ),
    Preset(
        "balanced",
        "balanced",
        "A cross-encoder reads every candidate as well, still without a call or a token: no more than fast on these "
        "lists, .01 to .02 more on answer sentences and on Chinese passages.",
    ),
    Preset(
        "best",
        "fast 20 > window",
        "One call over fast's best twenty: above the sliding window's nine at every level of noise, with a ninth of "
        "its prompt tokens and latency. Behind balanced it is no better; a round robin over the same twenty is, by .01 "
        "to .02 at forty times the tokens: for labels, not for requests.",
    ),
    Preset(
        "bulk",
        "fast 20 > first",
        "One call that writes one token: as good as a whole window within the intervals, at a seventh of its latency; "
        "it needs log-probabilities and does best with a model trained for it.",
    ),
)
"""What the table argues for, as far as it can: the simulated judge's errors know nothing of the local encoder's, so
that the local stage helps it more than it may help a real model; and it compares two passages with the noise with which
it compares two of twenty, which no recording shows."""


@dataclass(frozen=True, slots=True)
class Saving:
    """The cheapest row that is as good as the baseline, by prompt tokens.

    Args:
        level: of noise.
        among: which rows were looked at.
        row: the cheapest; empty where none is as good.
        ndcg: of it; the baseline's is `baseline`.
        tokens: of its prompts a query; the baseline's are `baseline_tokens`.

    """

    level: str
    among: str
    row: str
    ndcg: float
    baseline: float
    tokens: float
    baseline_tokens: float

    @property
    def share(self) -> float:
        """Return its tokens as a share of the baseline's."""
        return self.tokens / self.baseline_tokens

    @property
    def sentence(self) -> str:
        """Return it as a sentence."""
        if not self.row:
            return f"{self.level}, {self.among}: none is within {EQUAL} of {self.baseline:.4f} at fewer tokens."
        verdict = "at most half" if self.share <= HALF else "more than half"
        return (
            f"{self.level}, {self.among}: {self.row} has nDCG@10 {self.ndcg:.4f} (sliding window {self.baseline:.4f}) "
            f"with {self.tokens:,.0f} prompt tokens a query, {self.share:.1%} of {self.baseline_tokens:,.0f}: "
            f"{verdict}."
        )


def at(cells: Sequence[Cell], level: str) -> dict[str, Cell]:
    """Return the cells of one level, by row."""
    return {cell.row: cell for cell in cells if cell.level == level}


def difference(cell: Cell, base: Cell) -> tuple[float, float, float]:
    """Return the mean difference of two rows and the ends of its 95 % interval over queries.

    Where one row has fewer seeds than the other, only the seeds that both have are compared; a row that asks nobody is
    compared with all of them.
    """
    ours, theirs = cell.ndcg, base.ndcg
    if cell.calls and base.calls:
        seeds = min(len(ours), len(theirs))
        ours, theirs = ours[:seeds], theirs[:seeds]
    per_query = ours.mean(axis=0) - theirs.mean(axis=0)
    low, high = interval(per_query)
    return float(per_query.mean()), low, high


def savings(cells: Sequence[Cell]) -> list[Saving]:
    """Return, for every level, the cheapest row as good as the baseline, among all and among some of the rows."""
    kept = {row.name: row.keep for row in ROWS}
    found = []
    for level in dict.fromkeys(cell.level for cell in cells):
        here = at(cells, level)
        if BASELINE not in here:
            continue
        base = here[BASELINE]
        groups = {
            "all rows": here.values(),
            "rows that ask a model": [cell for cell in here.values() if cell.calls],
            "rows without the local stage": [cell for cell in here.values() if cell.calls and not kept.get(cell.row)],
        }
        for among, rows in groups.items():
            as_good = [
                cell
                for cell in rows
                if difference(cell, base)[0] >= -EQUAL and (cell is base or cell.prompt_tokens < base.prompt_tokens)
            ]
            best = min(as_good, key=lambda cell: cell.prompt_tokens)
            name = "" if best is base else best.row
            found.append(Saving(level, among, name, best.mean, base.mean, best.prompt_tokens, base.prompt_tokens))
    return found


def front(cells: Sequence[Cell], level: str) -> list[Cell]:
    """Return the rows of a level that none beats in both nDCG@10 and prompt tokens, cheapest first."""
    rows = sorted(at(cells, level).values(), key=lambda cell: (cell.prompt_tokens, -cell.mean))
    best, found = -1.0, []
    for cell in rows:
        if cell.mean > best:
            best = cell.mean
            found.append(cell)
    return found


def concordance(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Return Kendall's τ-b of two lists of figures; None where one of them does not vary."""
    a, b = np.asarray(ours), np.asarray(theirs)
    upper = np.triu_indices(len(a), 1)
    x, y = (np.sign(one[:, None] - one[None, :])[upper] for one in (a, b))
    scale = np.sqrt((x**2).sum() * (y**2).sum())
    return float((x * y).sum() / scale) if scale else None


def agreements(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return, for every model of which papers compare several strategies, how alike the two rankings are."""
    rows = []
    for model in dict.fromkeys(one.model for one in PUBLISHED):
        theirs = [one for one in PUBLISHED if one.model == model]
        for level in dict.fromkeys(cell.level for cell in cells) if len(theirs) > 2 else ():
            here = at(cells, level)
            both = [(here[one.row].mean, one.ndcg) for one in theirs if one.row in here]
            tau = concordance([ours for ours, _ in both], [figure for _, figure in both]) if len(both) > 2 else None
            rows.append({"model": model, "level": level, "strategies": len(both), "Kendall's τ-b": tau})
    return rows


# --- the section of the report ----------------------------------------------------------------------------------------


def section(setting: Setting, cells: Sequence[Cell]) -> dict[str, Any]:
    """Return the table and its findings as a section of the report (JSON)."""
    latency, prices = setting.latency, setting.prices
    levels = list(dict.fromkeys(cell.level for cell in cells))
    return {
        "format": "podium-simulated/1",
        "title": f"Every strategy with the simulated judge: {setting.suite.name}, {len(setting.suite.topics)} queries",
        "about": (
            f"Means over queries and {setting.seeds} judges "
            f"({setting.heavy_seeds} for strategies of hundreds of calls). "
            f"Money at a stated rate, nobody's price list: {prices.prompt_usd_per_mtok} USD a million prompt tokens, "
            f"{prices.cached_usd_per_mtok} cached, {prices.output_usd_per_mtok} output. Latency on a simulated clock: "
            f"{latency.prefill_tokens_per_s:,.0f} prompt tokens a second one prompt after another, "
            f"{latency.decode_tokens_per_s:,.0f} output tokens a second for each of {latency.slots} replies, "
            f"{latency.overhead_s} s a call; the local stage is not in it. Differences are from one pass of a sliding "
            "window of 20/10, with 95 % intervals over queries."
        ),
        **{f"noise {level}": _rows(cells, level) for level in levels},
        "front of quality and prompt tokens": [
            {"level": level, "strategy": cell.row, "nDCG@10": cell.mean, "prompt tokens": round(cell.prompt_tokens)}
            for level in levels
            for cell in front(cells, level)
        ],
        "half the tokens": [saving.sentence for saving in savings(cells)],
        "published (nDCG@10, DL19, BM25 top 100)": [
            {
                "strategy": one.row,
                "model": one.model,
                "published": one.ndcg,
                "arXiv": one.source,
                **{f"simulated, {level}": _mean(cells, level, one.row) for level in levels},
            }
            for one in PUBLISHED
        ],
        "agreement with the papers' rankings": agreements(cells),
        "presets": presets(cells),
    }


def presets(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the presets with their figures at every level."""
    found = []
    for preset in PRESETS:
        figures: dict[str, Any] = {"preset": preset.name, "pipeline": preset.row}
        for level in dict.fromkeys(cell.level for cell in cells):
            cell = at(cells, level).get(preset.row)
            if cell is not None:
                figures[f"nDCG@10, {level}"] = cell.mean
                figures |= {"calls": cell.calls, "rounds": cell.rounds, "prompt tokens": round(cell.prompt_tokens)}
                figures |= {"USD a thousand": cell.usd * 1000, "latency s": cell.latency_s}
        found.append(figures | {"why": preset.why})
    return found


def _rows(cells: Sequence[Cell], level: str) -> list[Mapping[str, Any]]:
    here = at(cells, level)
    return [_row(cell, here[BASELINE]) for cell in sorted(here.values(), key=lambda cell: -cell.mean)]


def _mean(cells: Sequence[Cell], level: str, row: str) -> float | None:
    cell = at(cells, level).get(row)
    return None if cell is None else cell.mean


def _row(cell: Cell, base: Cell) -> Mapping[str, Any]:
    mean, low, high = difference(cell, base)
    itself = cell.row == base.row
    return {
        "strategy": cell.row,
        "nDCG@10": round(cell.mean, 4),
        "difference": None if itself else round(mean, 4),
        "95 % interval": "" if itself else f"{low:+.4f} to {high:+.4f}",
        "calls": round(cell.calls, 1),
        "rounds": round(cell.rounds, 1),
        "prompt tokens": round(cell.prompt_tokens),
        "cached tokens": round(cell.cached_tokens),
        "output tokens": round(cell.output_tokens),
        "USD a thousand queries": round(cell.usd * 1000, 3),
        "latency s": round(cell.latency_s, 2),
        "malformed": round(cell.malformed, 2),
        "unreadable": round(cell.unreadable, 2),
        "judges": len(cell.ndcg) if cell.calls else 0,
    }


def printed(data: Mapping[str, Any], level: str) -> list[str]:
    """Return one level's table as lines of text."""
    lines = [
        f"noise {level}",
        f"  {'strategy':32} nDCG@10   diff.    calls rounds  prompt tok   cached  output  USD/1000 latency s malformed",
    ]
    for row in data[f"noise {level}"]:
        change = "" if row["difference"] is None else f"{row['difference']:+.4f}"
        lines.append(
            f"  {row['strategy']:32} {row['nDCG@10']:.4f} {change:>8} {row['calls']:8,.1f} {row['rounds']:6.1f} "
            f"{row['prompt tokens']:11,} {row['cached tokens']:8,} {row['output tokens']:7,} "
            f"{row['USD a thousand queries']:9.3f} {row['latency s']:9.2f} {row['malformed']:9.2f}"
        )
    return lines
