"""Thresholds from data: bounds that hold, thresholds that lose what is permitted, figures of lists not chosen on."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_server.jobs import calibrate
from podium_server.jobs.calibrate import Graded, Labels, Reranked
from podium_strategies.drive import run
from podium_strategies.early_exit import EarlyExit
from podium_strategies.permutation import by_score
from podium_strategies.pool import Pool


def graded(seed: int, n: int = 40, noise: float = 0.3) -> Graded:
    """Return a list whose strong grades are 2 · fast - 1 and some noise, and whose labels follow the strong ones."""
    lots = random.Random(seed)
    fast = tuple(lots.gauss(0, 1) for _ in range(n))
    strong = tuple(2 * value - 1 + lots.gauss(0, noise) for value in fast)
    best = by_score(strong)[:5]
    labels = tuple(float(place in best) for place in range(n))
    return Graded(Labels(str(seed), labels, labels), fast, strong)


LISTS = [graded(seed) for seed in range(60)]


def order_of(strategy: EarlyExit, one: Graded) -> tuple[int, ...]:
    tables = {"fast": one.fast, "strong": one.strong}
    n = len(one.fast)
    return run(strategy.plan(Pool(n)), lambda asked: [tables[q.role][q.items[0]] for q in asked], n).order


# --- early exit -------------------------------------------------------------------------------------------------------


def test_the_map_is_the_one_that_made_the_grades() -> None:
    slope, intercept = calibrate.affine_map(LISTS)
    assert slope == pytest.approx(2, abs=0.02)
    assert intercept == pytest.approx(-1, abs=0.02)


@pytest.mark.parametrize("quantile", calibrate.QUANTILES)
def test_a_bound_keeps_its_share_of_the_lists_exact(quantile: float) -> None:
    strategy = calibrate.fitted(EarlyExit(k=5, wave=1), LISTS, quantile)
    exact = [order_of(strategy, one)[:5] == by_score(one.strong)[:5] for one in LISTS]
    assert sum(exact) >= quantile * len(LISTS)


@settings(max_examples=100, deadline=None)
@given(
    table=st.lists(st.tuples(st.integers(-8, 8), st.integers(-8, 8)), min_size=1, max_size=30),
    k=st.integers(1, 6),
)
def test_the_needed_bound_suffices_whatever_the_grades(table: list[tuple[int, int]], k: int) -> None:
    fast, strong = tuple(f / 4 for f, _ in table), tuple(s / 4 for _, s in table)
    one = Graded(Labels("q", (0.0,) * len(table), ()), fast, strong)
    bound = calibrate.needed_bound(one, k, 0.5, 0.25)
    order = order_of(EarlyExit(k=k, bound=bound, slope=0.5, intercept=0.25, wave=1), one)
    assert order[:k] == by_score(strong)[:k]


def test_a_looser_quantile_saves_more() -> None:
    rows = calibrate.exit_rows(EarlyExit(k=5), LISTS)
    assert [row.quantile for row in rows] == list(calibrate.QUANTILES)
    saved = [row.saved for row in rows]
    assert saved == sorted(saved)
    assert 0.5 < saved[0] < saved[-1] < 1
    assert rows[0].exact >= 0.9, "on lists that the greatest bound was not chosen on"
    assert all(row.agreement >= row.exact for row in rows)
    chosen = calibrate.chosen_exit(rows, 0.002)
    assert chosen is not None
    assert chosen.loss <= 0.002
    assert chosen.saved == max(row.saved for row in rows if row.loss <= 0.002)


def test_grades_that_say_nothing_of_each_other_are_refused() -> None:
    against = [Graded(one.labels, tuple(-value for value in one.fast), one.strong) for one in LISTS]
    with pytest.raises(ValueError, match="do not rise together"):
        calibrate.exit_rows(EarlyExit(), against)
    flat = [Graded(one.labels, (1.0,) * len(one.fast), one.strong) for one in LISTS]
    with pytest.raises(ValueError, match="do not rise together"):
        calibrate.exit_rows(EarlyExit(), flat)


# --- selective --------------------------------------------------------------------------------------------------------


def lists_of(*rows: tuple[float | None, float, float]) -> list[Reranked]:
    return [Reranked(str(i), *row) for i, row in enumerate(rows)]


def test_the_threshold_is_the_lowest_before_the_first_loss() -> None:
    lists = lists_of((0.9, 0.5, 0.5), (0.8, 0.5, 0.51), (0.7, 0.2, 0.9), (0.6, 0.9, 0.1))
    assert calibrate.chosen_threshold(lists, 0.01) == 0.8
    assert calibrate.chosen_threshold(lists, 0.0) == 0.9
    assert calibrate.chosen_threshold(lists, 1.0) == 0.6, "everything may be lost"


def test_a_reranker_that_harms_is_skipped_altogether() -> None:
    assert calibrate.chosen_threshold(lists_of((0.9, 0.9, 0.5), (0.2, 0.8, 0.3)), 0.0) == 0.2


def test_where_margins_mislead_nothing_is_skipped() -> None:
    assert calibrate.chosen_threshold(lists_of((0.9, 0.1, 0.9), (0.1, 0.9, 0.9)), 0.0) is None
    assert calibrate.chosen_threshold(lists_of((None, 0.9, 0.9)), 0.0) is None


def test_equal_margins_are_skipped_together_or_not_at_all() -> None:
    lists = lists_of((0.9, 0.5, 0.5), (0.5, 0.5, 0.5), (0.5, 0.1, 0.9))
    assert calibrate.chosen_threshold(lists, 0.0) == 0.9


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.none() | st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), st.floats(0, 1), st.floats(0, 1)),
        min_size=1,
        max_size=20,
    ),
    loss=st.floats(0, 0.2),
)
def test_on_its_own_lists_a_chosen_threshold_loses_what_is_permitted(
    rows: list[tuple[float | None, float, float]], loss: float
) -> None:
    lists = lists_of(*rows)
    threshold = calibrate.chosen_threshold(lists, loss)
    row = calibrate.skip_row(lists, threshold)
    assert row.loss <= loss + 1e-9
    assert (row.skipped == 0) == (threshold is None)


def test_figures_are_of_lists_that_the_threshold_was_not_chosen_on() -> None:
    """Margins that say nothing: on the lists themselves a choice looks good, on others it is found out."""
    lots = random.Random(5)
    lists = [Reranked(str(i), lots.random(), 0.4 + 0.2 * lots.random(), 0.4 + 0.2 * lots.random()) for i in range(200)]
    told = calibrate.cross_validated(lists, 0.0)
    itself = calibrate.skip_row(lists, told.threshold)
    assert itself.loss <= 0.0
    assert told.loss != itself.loss


def test_halves_are_the_same_whatever_the_order_of_the_file() -> None:
    names = [f"q{i}" for i in range(11)]
    forwards, backwards = (calibrate.halves(given, str) for given in (names, names[::-1]))
    assert [set(half) for half in forwards[0]] == [set(half) for half in backwards[0]]
    assert set(forwards[0][0]) | set(forwards[0][1]) == set(names)
    assert forwards[1] == forwards[0][::-1]
    with pytest.raises(ValueError, match="1 lists"):
        calibrate.halves(["q"], str)
