"""What a suite's figures say, in sentences: the first thing that a reader sees, and no more than the figures carry."""

from __future__ import annotations

from collections.abc import Sequence

from podium_evals.report import words
from podium_evals.report.markup import Child, Html, join, tag
from podium_evals.results import Evaluation, System

EQUAL = 0.005
"""Systems whose means lie within this are called equal in quality; the price then decides."""

SIGNIFICANT = 0.05

JUDGED_MIN = 0.8
"""Below this share of judged documents in the first ten a mean says more about the judgments than about the system."""


def findings(evaluation: Evaluation, main: str) -> list[Html]:
    """Return sentences, the most important first."""
    ranked = sorted(evaluation.systems, key=lambda system: -_mean(evaluation, system, main))
    if len(ranked) < 2:
        return [join(["Only ", _name(ranked[0].name), " was measured; there is nothing to compare it with."])]
    said = [_best(evaluation, ranked, main)]
    said += _bargain(evaluation, ranked, main)
    said += _worse(evaluation, ranked, main)
    said += _unjudged(evaluation)
    return said


def _name(name: str) -> Html:
    return tag("b", name)


def _names(names: Sequence[str]) -> Child:
    return [[", " if place else None, _name(name)] for place, name in enumerate(names)]


def _mean(evaluation: Evaluation, system: System, main: str) -> float:
    return evaluation.summaries[system.name].means[main].value


def _best(evaluation: Evaluation, ranked: Sequence[System], main: str) -> Html:
    best = ranked[0]
    value = words.quality(_mean(evaluation, best, main))
    if best.name == evaluation.baseline:
        return join(["No system is better than ", _name(best.name), f", the baseline, at {main} {value}."])
    difference = evaluation.differences[best.name][main]
    p = difference.p if difference.p_holm is None else difference.p_holm
    sure = f"p {words.p_value(p)}" if p < 0.001 else f"p = {words.p_value(p)}"
    chance = "" if p < SIGNIFICANT else ", which may be chance"
    return join(
        [
            f"The highest {main} is that of ",
            _name(best.name),
            f": {value}, which is {words.signed(difference.mean)} over ",
            _name(evaluation.baseline),
            f" (95 % interval {words.signed(difference.low)} to {words.signed(difference.high)}; {sure}{chance}).",
        ]
    )


def _bargain(evaluation: Evaluation, ranked: Sequence[System], main: str) -> list[Html]:
    """Return who is as good for less money, and who is as good in less time."""
    best = _mean(evaluation, ranked[0], main)
    near = [evaluation.summaries[s.name] for s in ranked if best - _mean(evaluation, s, main) <= EQUAL]
    names = [system.name for system in ranked]
    costs = {name: summary.cost_usd for name, summary in zip(names, near, strict=False)}
    times = {name: summary.latency_p50_s for name, summary in zip(names, near, strict=False)}
    said = []
    for verb, known, amount in (("costs", costs, _per_thousand), ("takes", times, _at_the_median)):
        own = known[names[0]]
        least = min((value, name) for name, value in known.items() if value is not None) if own else (0.0, names[0])
        if own and least[1] != names[0] and least[0] < own:
            share = f" {verb} {words.share(least[0] / own)} of that: {amount(least[0])} against {amount(own)}."
            said.append(join([f"Within {words.quality(EQUAL, 3)} of it, ", _name(least[1]), share]))
    return said


def _per_thousand(cost_usd: float) -> str:
    return f"{words.dollars(1000 * cost_usd)} per 1,000 queries"


def _at_the_median(time_s: float) -> str:
    return f"{words.seconds(time_s)} at the median"


def _worse(evaluation: Evaluation, ranked: Sequence[System], main: str) -> list[Html]:
    worse = []
    for system in ranked:
        difference = evaluation.differences.get(system.name, {}).get(main)
        if difference and difference.mean < 0 and (difference.p_holm or difference.p) < SIGNIFICANT:
            worse.append(system.name)
    if not worse:
        return []
    return [join(["Worse than ", _name(evaluation.baseline), ", and not by chance: ", _names(worse), "."])]


def _unjudged(evaluation: Evaluation) -> list[Html]:
    doubtful = []
    for system in evaluation.systems:
        judged = evaluation.summaries[system.name].means.get("Judged@10")
        if judged is not None and judged.value < JUDGED_MIN:
            doubtful.append(f"{system.name} ({words.share(judged.value)})")
    if not doubtful:
        return []
    few = ", ".join(doubtful)
    return [join([f"Read with care: of the first ten, few are judged for {few}; unjudged counts as irrelevant."])]
