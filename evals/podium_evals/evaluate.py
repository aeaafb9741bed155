"""From rankings to figures: every system over the same judged queries, each compared with one baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import ir_measures
import numpy as np

from podium_evals.measures import MEASURES, Measured, measure
from podium_evals.results import (
    COMPLETE,
    FAILED,
    FIRST_STAGE,
    RECORDED,
    RUN_FILE,
    UNANSWERED,
    Difference,
    Evaluation,
    Mean,
    Reference,
    Summary,
    System,
)
from podium_evals.statistics import compare_all, holm, intervals
from podium_evals.suite import Suite, SuiteError

LOOKED_AT = 10
"""Places of which a reader looks at the judgments."""
UNJUDGED_SHARE = 0.5
"""Of them; from there on a figure says more of the judgments than of the system."""


def evaluate(
    suite: Suite,
    systems: Sequence[System],
    *,
    baseline: str = FIRST_STAGE,
    measures: Sequence[ir_measures.Measure] = MEASURES,
    references: Sequence[Reference] = (),
    seed: int = 0,
) -> Evaluation:
    """Measure systems over a suite, and compare each with the baseline.

    Args:
        suite: with judgments.
        systems: of different names, the baseline among them.
        baseline: by name.
        measures: what to compute; p-values are corrected within each of them.
        references: published figures on the same lists.
        seed: of resampling: equal seeds, equal figures.

    Raises:
        SuiteError: two systems of one name, no system of the baseline's, or a system that answers none of the queries.

    """
    names = [system.name for system in systems]
    if len(set(names)) < len(names):
        raise SuiteError(f"{suite.name}: two systems are called the same: {', '.join(sorted(names))}")
    if baseline not in names:
        raise SuiteError(f"{suite.name}: there is no baseline {baseline!r}; there are {', '.join(names)}")
    measured = {}
    for system in systems:
        try:
            measured[system.name] = measure(system.run, suite.qrels, measures)
        except ValueError as error:
            raise SuiteError(f"{suite.name}, {system.name}: {error}") from error
    return Evaluation(
        suite=suite,
        systems=tuple(_remarked(system, suite) for system in systems),
        qids=measured[baseline].qids,
        values={name: found.values for name, found in measured.items()},
        summaries={system.name: summary(system, measured[system.name], seed=seed) for system in systems},
        differences=_differences(measured, baseline, seed),
        baseline=baseline,
        references=tuple(references),
    )


def _remarked(system: System, suite: Suite) -> System:
    """Return the system with a warning where half of what it shows first has no judgment."""
    judged = {qid: graded for qid, graded in suite.qrels.items() if graded}
    shown = [
        docid in judged[qid] for qid, docids in system.run.items() if qid in judged for docid in docids[:LOOKED_AT]
    ]
    unjudged = len(shown) - sum(shown)
    if not shown or unjudged < UNJUDGED_SHARE * len(shown):
        return system
    share = f"{100 * unjudged / len(shown):.0f} %"
    remark = (
        f"{unjudged:,} of its {len(shown):,} first {LOOKED_AT} places ({share}) are unjudged, and count as irrelevant"
    )
    return replace(system, warnings=(*system.warnings, remark))


def _differences(measured: Mapping[str, Measured], baseline: str, seed: int) -> dict[str, dict[str, Difference]]:
    against = measured[baseline].values
    others = [name for name in measured if name != baseline]
    pairs = [(key, name) for key in against for name in others]
    if not pairs:
        return {}
    differences = np.stack([measured[name].values[key] - against[key] for key, name in pairs], axis=1)
    plain = dict(zip(pairs, compare_all(differences, seed=seed), strict=True))
    found: dict[str, dict[str, Difference]] = {name: {} for name in others}
    for key in against:
        corrected = holm([plain[key, name].p for name in others])
        for name, p_holm in zip(others, corrected, strict=True):
            found[name][key] = replace(plain[key, name], p_holm=p_holm)
    return found


def _means(measured: Measured, seed: int) -> dict[str, Mean]:
    lows, highs = intervals(np.stack(tuple(measured.values.values()), axis=1), seed=seed)
    return {
        name: Mean(float(values.mean()), float(low), float(high))
        for (name, values), low, high in zip(measured.values.items(), lows, highs, strict=True)
    }


def summary(system: System, measured: Measured, *, seed: int = 0) -> Summary:
    """Return a system's figures. What is not known of its kind stays None (see `Summary`)."""
    rankings = [ranking for ranking in system.rankings if ranking.completion != UNANSWERED]
    ended = [ranking.completion for ranking in rankings]
    answered = [ranking for ranking in rankings if ranking.docids]
    known = Summary(
        means=_means(measured, seed),
        queries=len(system.rankings),
        judged=len(measured.qids),
        failed=sum(completion == FAILED for completion in ended) + len(system.rankings) - len(rankings),
        partial=sum(completion not in (COMPLETE, FAILED) for completion in ended),
        unchanged=sum(ranking.unchanged for ranking in answered) / len(answered) if answered else 0.0,
    )
    spent = [ranking.spent for ranking in rankings]
    if system.kind == RUN_FILE or not spent:
        return known
    replies = sum(one.replies for one in spent)
    costs = [one.cost_usd for one in spent]

    def mean(name: str) -> float:
        return float(np.mean([getattr(one, name) for one in spent]))

    known = replace(
        known,
        calls=mean("calls"),
        rounds=mean("rounds"),
        questions=mean("questions"),
        pairs=mean("pairs"),
        prompt_tokens=mean("prompt_tokens"),
        cached_tokens=mean("cached_tokens"),
        output_tokens=mean("output_tokens"),
        malformed=sum(one.malformed_replies for one in spent) / replies if replies else None,
        unreadable=sum(one.unreadable_replies for one in spent) / replies if replies else None,
        retries=sum(one.retries for one in spent),
        cost_usd=None if None in costs else float(np.mean([cost for cost in costs if cost is not None])),
    )
    if system.kind == RECORDED:
        return known
    walls, paths = [one.wall_s for one in spent], [one.critical_path_s for one in spent]
    return replace(
        known,
        latency_p50_s=float(np.quantile(walls, 0.5)),
        latency_p95_s=float(np.quantile(walls, 0.95)),
        critical_path_p50_s=float(np.quantile(paths, 0.5)),
        critical_path_p95_s=float(np.quantile(paths, 0.95)),
    )
