"""Thresholds from data: what `podium calibrate` computes of lists whose grades, orders and labels are known.

Everything here is pure. Each figure is of lists that the setting was not chosen on (two halves, each chosen on the
other); the setting that is proposed is chosen on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from statistics import fmean
from typing import Any, TypeVar
from zlib import crc32

from podium_server.jobs.ndcg import ndcg
from podium_strategies.drive import run
from podium_strategies.early_exit import FAST, EarlyExit
from podium_strategies.permutation import by_score
from podium_strategies.plan import Permutation, Question
from podium_strategies.pool import Pool

RANKS = 10
"""nDCG@10 is what the figures are of."""

QUANTILES = (1.0, 0.99, 0.95, 0.9, 0.75)
"""Of lists whose top k a bound keeps exact, on those that it was set on."""

ListT = TypeVar("ListT")


@dataclass(frozen=True, slots=True)
class Labels:
    """What is known of a list's documents.

    Args:
        qid: of the list.
        given: by place; 0 for those that nobody judged.
        ideal: all of the query, in any order.

    """

    qid: str
    given: tuple[float, ...]
    ideal: tuple[float, ...]

    def ndcg(self, order: Sequence[int]) -> float:
        """Return nDCG@10 of an order of the places."""
        return ndcg([self.given[place] for place in order], self.ideal, RANKS)


@dataclass(frozen=True, slots=True)
class Graded:
    """A list with all grades of both judges, by place."""

    labels: Labels
    fast: tuple[float, ...]
    strong: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Reranked:
    """A list with the margin of its first stage (None: it is never skipped), and nDCG@10 before and after."""

    qid: str
    margin: float | None
    before: float
    after: float


# --- early exit -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExitRow:
    """What one bound comes to.

    Args:
        quantile: of lists that the bound keeps exact, where it was set.
        strategy: as it was set on all lists.
        saved: share of strong grades that were not asked for; the fast ones are not counted.
        exact: share of lists whose top k is the same, in the same order.
        agreement: share of the top k that is in it.
        loss: of nDCG@10, against grading all; below 0 where exiting early did better.

    """

    quantile: float
    strategy: EarlyExit
    saved: float
    exact: float
    agreement: float
    loss: float


def affine_map(lists: Sequence[Graded]) -> tuple[float, float]:
    """Return slope and intercept of the least squares line from fast grades to strong ones, over all candidates.

    Raises:
        ValueError: the strong grades do not rise with the fast ones, so that no exit by them can be right.

    """
    pairs = [pair for one in lists for pair in zip(one.fast, one.strong, strict=True)]
    if not pairs:
        raise ValueError("there is no graded candidate")
    mean_fast, mean_strong = fmean(fast for fast, _ in pairs), fmean(strong for _, strong in pairs)
    spread = sum((fast - mean_fast) ** 2 for fast, _ in pairs)
    together = sum((fast - mean_fast) * (strong - mean_strong) for fast, strong in pairs)
    if not (spread > 0 and together > 0):
        raise ValueError("the grades of the two judges do not rise together: the fast one says nothing of the strong")
    slope = together / spread
    return slope, mean_strong - slope * mean_fast


def needed_bound(one: Graded, k: int, slope: float, intercept: float) -> float:
    """Return a bound that keeps the top k of a list exact: nobody of it is expected further below its last place."""
    top = by_score(one.strong)[:k]
    if not top:
        return 0.0
    bar = one.strong[top[-1]]
    return max(0.0, *(bar - (slope * one.fast[item] + intercept) for item in top))


def fitted(usual: EarlyExit, lists: Sequence[Graded], quantile: float) -> EarlyExit:
    """Return `usual` with map and bound set so that at least this share of the lists is exact."""
    slope, intercept = affine_map(lists)
    needed = sorted(needed_bound(one, usual.k, slope, intercept) for one in lists)
    bound = needed[ceil(quantile * len(needed)) - 1]
    return replace(usual, slope=slope, intercept=intercept, bound=bound)


def exit_rows(usual: EarlyExit, lists: Sequence[Graded]) -> list[ExitRow]:
    """Return what each quantile's bound comes to; the strategy itself is run, over the grades that are known.

    Raises:
        ValueError: there are too few lists for two halves, or `affine_map` finds no map.

    """
    rows = []
    for quantile in QUANTILES:
        runs = [
            _exited(strategy, one)
            for chosen_on, told_on in halves(lists, lambda one: one.labels.qid)
            for strategy in (fitted(usual, chosen_on, quantile),)
            for one in told_on
        ]
        asked, candidates = sum(run.asked for run in runs), sum(run.candidates for run in runs)
        rows.append(
            ExitRow(
                quantile=quantile,
                strategy=fitted(usual, lists, quantile),
                saved=1 - asked / candidates if candidates else 0.0,
                exact=fmean(run.exact for run in runs),
                agreement=fmean(run.agreement for run in runs),
                loss=fmean(run.loss for run in runs),
            )
        )
    return rows


def chosen_exit(rows: Sequence[ExitRow], loss_max: float) -> ExitRow | None:
    """Return the row that saves most at a permitted loss; None where none saves anything."""
    good = [row for row in rows if row.loss <= loss_max and row.saved > 0]
    return max(good, key=lambda row: row.saved, default=None)


@dataclass(frozen=True, slots=True)
class _Exited:
    """What one list came to."""

    asked: int
    candidates: int
    exact: bool
    agreement: float
    loss: float


def exited(strategy: EarlyExit, one: Graded) -> tuple[Permutation, int]:
    """Return the order that a strategy comes to over grades that are known, and how many strong ones it asked for."""
    n = len(one.strong)
    asked = 0

    def panel(questions: Sequence[Question[Any]]) -> list[float]:
        nonlocal asked
        asked += sum(question.role != FAST for question in questions)
        return [(one.fast if question.role == FAST else one.strong)[question.items[0]] for question in questions]

    return run(strategy.plan(Pool(n)), panel, n).order, asked


def _exited(strategy: EarlyExit, one: Graded) -> _Exited:
    order, asked = exited(strategy, one)
    all_graded = by_score(one.strong)
    top, wanted = order[: strategy.k], all_graded[: strategy.k]
    return _Exited(
        asked=asked,
        candidates=len(order),
        exact=top == wanted,
        agreement=len(set(top) & set(wanted)) / len(wanted) if wanted else 1.0,
        loss=one.labels.ndcg(all_graded) - one.labels.ndcg(order),
    )


# --- selective --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SkipRow:
    """What a threshold comes to: the share of lists that are left alone, and what is lost by it in nDCG@10."""

    threshold: float | None
    skipped: float
    ndcg: float
    loss: float


def skip_row(lists: Sequence[Reranked], threshold: float | None) -> SkipRow:
    """Return what a threshold comes to on these lists; None skips nothing."""
    skips = [threshold is not None and one.margin is not None and one.margin >= threshold for one in lists]
    kept = fmean(one.before if skip else one.after for one, skip in zip(lists, skips, strict=True))
    return SkipRow(threshold, fmean(skips), kept, fmean(one.after for one in lists) - kept)


def chosen_threshold(lists: Sequence[Reranked], loss_max: float) -> float | None:
    """Return the lowest threshold down to which, from the highest margin on, no loss is above `loss_max`.

    A lower one at which the loss happens to be small again is not taken: what lies between has been seen to lose.
    Lists of equal margin are skipped together or not at all.
    """
    ordered = sorted((one for one in lists if one.margin), key=lambda one: -(one.margin or 0.0))
    lost, found = 0.0, None
    for place, one in enumerate(ordered):
        lost += one.after - one.before
        last_of_its_margin = place + 1 == len(ordered) or ordered[place + 1].margin != one.margin
        if last_of_its_margin:
            if lost / len(lists) > loss_max:
                break
            found = one.margin
    return found


def skip_rows(lists: Sequence[Reranked], shares: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)) -> list[SkipRow]:
    """Return rows for skipping nothing and about these shares of the lists, for a look at the whole."""
    margins = sorted((one.margin for one in lists if one.margin), reverse=True)
    places = [round(share * len(lists)) - 1 for share in shares]
    thresholds = dict.fromkeys(margins[place] for place in places if 0 <= place < len(margins))
    return [skip_row(lists, threshold) for threshold in (None, *thresholds)]


def cross_validated(lists: Sequence[Reranked], loss_max: float) -> SkipRow:
    """Return what choosing a threshold comes to, on lists that it was not chosen on; its own threshold is of all.

    Raises:
        ValueError: there are too few lists for two halves.

    """
    rows = [
        (skip_row(told_on, chosen_threshold(chosen_on, loss_max)), len(told_on))
        for chosen_on, told_on in halves(lists, lambda one: one.qid)
    ]

    def mean(of: Callable[[SkipRow], float]) -> float:
        return sum(of(row) * size for row, size in rows) / len(lists)

    return SkipRow(
        chosen_threshold(lists, loss_max),
        mean(lambda row: row.skipped),
        mean(lambda row: row.ndcg),
        mean(lambda row: row.loss),
    )


def halves(
    lists: Sequence[ListT], qid: Callable[[ListT], str]
) -> tuple[tuple[Sequence[ListT], Sequence[ListT]], tuple[Sequence[ListT], Sequence[ListT]]]:
    """Return two halves, each once to choose on and once to tell of. Who is in which depends on its id alone.

    Raises:
        ValueError: there are fewer than two lists.

    """
    if len(lists) < 2:
        raise ValueError(f"{len(lists)} lists cannot be divided into one to choose on and one to tell of")
    mixed = sorted(lists, key=lambda one: (crc32(qid(one).encode()), qid(one)))
    one, other = mixed[::2], mixed[1::2]
    return (one, other), (other, one)
