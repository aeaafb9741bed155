"""Early exit: exact for the top k where its bound holds, honest where it does not, and never dearer than it says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_strategies.early_exit import EarlyExit
from podium_strategies.plan import Grade, Question, Ranking
from podium_strategies.pointwise import Pointwise
from podium_strategies.pool import Pool
from tests.laws.laws import complete


def by_table(fast: Sequence[float], strong: Sequence[float]) -> Any:
    """Return two judges: one score table a role; `Pointwise` asks the strong one."""

    def answer(question: Question[Any]) -> float:
        assert isinstance(question, Grade)
        return (fast if question.role == "fast" else strong)[question.item]

    return answer


def both(strategy: EarlyExit, fast: Sequence[float], strong: Sequence[float]) -> tuple[Ranking, int, Ranking]:
    """Return the ranking, the number of strong questions, and what grading all by the strong judge gives."""
    pool, answer = Pool(len(fast)), by_table(fast, strong)
    ranking, asked = complete(strategy, pool, answer)
    exact, _ = complete(Pointwise(), pool, answer)
    return ranking, sum(question.role == "strong" for question in asked), exact


# Few values, so that equal grades are common: at the bar they are where an exit goes wrong.
coarse = st.integers(-8, 8).map(lambda value: value / 4)
fine = st.floats(-10, 10)


@settings(max_examples=300, deadline=None)
@given(
    table=st.lists(st.tuples(coarse | fine, coarse | fine), max_size=60),
    k=st.integers(1, 12),
    wave=st.integers(1, 20),
    slope=st.sampled_from([0.1, 0.5, 1.0, 3.0]),
    intercept=st.sampled_from([-2.0, 0.0, 0.3]),
)
def test_the_top_k_is_exact_for_every_table_within_the_bound(
    table: list[tuple[float, float]], k: int, wave: int, slope: float, intercept: float
) -> None:
    fast = [one for one, _ in table]
    strong = [slope * one + intercept + error for one, error in table]
    # As a calibration measures it; not a hair more, whatever rounding did on the way.
    bound = max((abs(s - (slope * f + intercept)) for f, s in zip(fast, strong, strict=True)), default=0.0)
    strategy = EarlyExit(k=k, bound=bound, slope=slope, intercept=intercept, wave=wave)
    ranking, _, exact = both(strategy, fast, strong)
    assert ranking.order[:k] == exact.order[:k]
    assert ranking.scores is not None
    assert [ranking.scores[item] for item in ranking.order[:k]] == [strong[item] for item in exact.order[:k]]


@settings(max_examples=100, deadline=None)
@given(table=st.lists(st.tuples(coarse, coarse), max_size=40), k=st.integers(1, 8), bound=st.floats(0, 3))
def test_the_strongly_graded_stand_in_front_and_the_others_follow_the_fast_judge(
    table: list[tuple[float, float]], k: int, bound: float
) -> None:
    fast, strong = [one for one, _ in table], [other for _, other in table]
    ranking, asked, _ = both(EarlyExit(k=k, bound=bound, wave=3), fast, strong)
    assert ranking.scores is not None
    head, tail = ranking.order[:asked], ranking.order[asked:]
    assert [ranking.scores[item] for item in head] == sorted((strong[item] for item in head), reverse=True)
    assert [ranking.scores[item] for item in tail] == [None] * len(tail)
    assert list(tail) == sorted(tail, key=lambda item: (-fast[item], item))


@pytest.mark.parametrize(
    ("wave", "asked"),
    [
        (1, 21),  # ten, and one by one those who are at most ten worse than the tenth; the last of them is a tie
        (10, 21),  # the bar does not move in this table, so a wave holds only whom it can reach
        (100, 21),
    ],
)
def test_the_strong_questions_saved(wave: int, asked: int) -> None:
    """A hundred candidates, a step of 1 apart, a bound of 11: twenty-one can reach the first ten, 79 are saved."""
    scores = [-float(item) for item in range(100)]
    _, strong, _ = both(EarlyExit(k=10, bound=11.0, wave=wave), scores, scores)
    assert strong == asked


def test_a_wave_looks_no_further_than_the_bar_it_knew() -> None:
    """The tenth of the first wave is poor, so its bar lets everyone in; the second wave raises it, and that is that."""
    fast = [-float(item) for item in range(60)]
    strong = [fast[item] if item % 2 else -100.0 for item in range(60)]
    asked = {wave: both(EarlyExit(k=10, bound=101.0, wave=wave), fast, strong)[1] for wave in (5, 20, 60)}
    assert asked[5] <= asked[20] <= asked[60] == 60


def test_who_is_graded_anyway_is_not_asked_about_twice() -> None:
    scores = [0.5] * 8
    for strategy, n in ((EarlyExit(), 8), (EarlyExit(k=8, bound=0.1), 8), (EarlyExit(strong_max=8), 8)):
        _, asked = complete(strategy, Pool(n), by_table(scores, scores))
        assert [question.role for question in asked] == ["strong"] * n


def test_a_maximum_ends_the_exactness_and_is_kept() -> None:
    fast = [-float(item) for item in range(30)]
    strong = fast[::-1]
    ranking, asked, exact = both(EarlyExit(k=10, bound=60.0, strong_max=12), fast, strong)
    assert asked == 12
    assert ranking.order[:12] == tuple(reversed(range(12)))
    assert ranking.order[:10] != exact.order[:10]


def test_a_broken_bound_loses_a_candidate_and_only_that() -> None:
    """The honest half of the law: one error beyond the bound costs the one whom it belongs to."""
    fast = [-float(item) for item in range(50)]
    strong = list(fast)
    strong[40] = 5.0
    ranking, asked, exact = both(EarlyExit(k=5, bound=1.0), fast, strong)
    assert asked < 50
    assert exact.order[0] == 40
    assert ranking.order[:4] == exact.order[1:5]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"k": 0}, "k"),
        ({"wave": 0}, "wave"),
        ({"bound": -1.0}, "bound"),
        ({"bound": float("inf")}, "bound"),
        ({"slope": 0.0}, "slope"),
        ({"slope": float("nan")}, "slope"),
        ({"intercept": float("inf")}, "intercept"),
        ({"strong_max": 0}, "strong_max"),
    ],
)
def test_options_are_checked(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named} is "):
        EarlyExit(**options)
