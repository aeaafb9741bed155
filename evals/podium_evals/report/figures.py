"""Results into the figures that charts are drawn of: a few numbers a system, and one a query."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podium_evals.report.mistakes import classify
from podium_evals.results import Evaluation, Ranking, System

DEPTHS = 20
"""Quality is drawn at every depth from 1 to this."""

DIGITS = 5
"""Of values that are drawn: a pixel is more than the next one."""


@dataclass(frozen=True, slots=True)
class Errors:
    """In how many judged queries of a suite a system made which mistake, at least once.

    Args:
        demoted: a relevant document left the first ten although one of a lower grade stands there.
        promoted: one judged irrelevant came into the first ten although a relevant one stands outside.
        unjudged: one that nobody judged came into the first ten.
        nothing_there: no candidate was relevant.
        repaired: a reply had to be repaired.
        unreadable: a reply could not be read.
        failed: no answer at all.

    """

    demoted: int = 0
    promoted: int = 0
    unjudged: int = 0
    nothing_there: int = 0
    repaired: int = 0
    unreadable: int = 0
    failed: int = 0


def ndcg_by_depth(order: Sequence[str], grades: Mapping[str, int], *, depths: int = DEPTHS) -> NDArray[np.float64]:
    """Return nDCG@1 to nDCG@depths of one list, (depths,): trec_eval's, whose gain is the grade itself."""

    def gains(values: Sequence[int]) -> NDArray[np.float64]:
        padded = np.zeros(depths)
        padded[: len(values[:depths])] = values[:depths]
        return np.cumsum(np.maximum(padded, 0) / np.log2(np.arange(2, depths + 2)))

    ideal = gains(sorted(grades.values(), reverse=True))
    found = gains([grades.get(docid, 0) for docid in order[:depths]])
    return np.divide(found, ideal, out=np.zeros(depths), where=ideal > 0)


def depth_curve(system: System, evaluation: Evaluation) -> list[float]:
    """Return the mean nDCG@1 to nDCG@20 over the judged queries; a query without an answer counts as 0."""
    run = system.run
    curves = [ndcg_by_depth(run.get(qid, ()), evaluation.suite.qrels[qid]) for qid in evaluation.qids]
    return [round(float(value), DIGITS) for value in np.mean(curves, axis=0)]


def first_orders(evaluation: Evaluation) -> dict[str, tuple[str, ...]]:
    """Return each query's documents as they came; where no lists were given (run files), as the baseline has them."""
    came = {topic.qid: tuple(passage.docid for passage in topic.candidates) for topic in evaluation.suite.topics}
    baseline = evaluation.system(evaluation.baseline).run
    return {qid: docids or baseline.get(qid, ()) for qid, docids in came.items()}


def errors(system: System, evaluation: Evaluation) -> Errors:
    """Return how many judged queries show which mistake."""
    came = first_orders(evaluation)
    rankings = {ranking.qid: ranking for ranking in system.rankings}
    counts = dict.fromkeys((field.name for field in fields(Errors)), 0)
    for qid in evaluation.qids:
        ranking = rankings.get(qid) or Ranking(qid, ())
        first = came[qid]
        found = classify(first, ranking.docids, evaluation.suite.qrels[qid])
        counts["demoted"] += bool(found.demoted)
        counts["promoted"] += bool(found.promoted)
        counts["unjudged"] += bool(found.unjudged)
        counts["nothing_there"] += found.nothing_there
        counts["repaired"] += ranking.spent.malformed_replies > 0
        counts["unreadable"] += ranking.spent.unreadable_replies > 0
        counts["failed"] += not ranking.docids and bool(first)
    return Errors(**counts)


def priced(evaluation: Evaluation) -> bool:
    """Return whether any system has a price, so that there is something to draw against."""
    return any((summary.cost_usd or 0) > 0 for summary in evaluation.summaries.values())


def suite_figures(evaluation: Evaluation, main: str) -> dict[str, Any]:
    """Return what the charts of one suite need, as JSON has it."""
    queries = {topic.qid: topic.query for topic in evaluation.suite.topics}
    names = [system.name for system in evaluation.systems]
    return {
        "name": evaluation.suite.name,
        "measure": main,
        "baseline": names.index(evaluation.baseline),
        "best": max(range(len(names)), key=lambda i: evaluation.summaries[names[i]].means[main].value),
        "qids": list(evaluation.qids),
        "queries": [queries[qid] for qid in evaluation.qids],
        "references": [
            {"name": reference.name, "value": reference.value}
            for reference in evaluation.references
            if reference.measure == main
        ],
        "systems": [_system_figures(system, evaluation, main) for system in evaluation.systems],
    }


def _system_figures(system: System, evaluation: Evaluation, main: str) -> dict[str, Any]:
    summary = evaluation.summaries[system.name]
    mean = summary.means[main]
    return {
        "name": system.name,
        "kind": system.kind,
        "mean": finite(mean.value),
        "low": finite(mean.low),
        "high": finite(mean.high),
        "cost": finite(summary.cost_usd),
        "tokens": finite(summary.prompt_tokens),
        "latency": finite(summary.latency_p50_s),
        "depth": depth_curve(system, evaluation),
        "values": [round(float(value), DIGITS) for value in evaluation.values[system.name][main]],
    }


def finite(value: float | None) -> float | None:
    """Return a number that JSON has, or None."""
    return None if value is None or not math.isfinite(value) else float(value)
