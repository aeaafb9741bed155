"""Feedback moves up what is like the best, by as much as it is told to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_strategies.drive import run
from podium_strategies.feedback import Feedback
from podium_strategies.permutation import by_score
from podium_strategies.plan import Liken, Question
from podium_strategies.pool import Pool

scores = st.lists(st.integers(-50, 50).map(float), max_size=30)


def likened(groups: Sequence[int]) -> Any:
    """Make a panel to which items of one group are alike, and items of two are not."""

    def panel(questions: Sequence[Question[Any]]) -> list[Any]:
        assert all(isinstance(question, Liken) for question in questions)
        return [tuple(float(groups[q.item] == groups[other]) for other in q.others) for q in questions]  # type: ignore[attr-defined]

    return panel


def ordered(strategy: Feedback, values: Sequence[float], groups: Sequence[int]) -> tuple[int, ...]:
    return run(strategy.plan(Pool(len(values), scores=tuple(values))), likened(groups), len(values)).order


def test_a_companion_of_the_best_passes_those_who_stood_just_above_it() -> None:
    values, groups = [9.0, 5.0, 4.9, 4.8, 0.0, 0.0], [1, 2, 3, 1, 4, 5]
    assert ordered(Feedback(weight=0.0), values, groups)[:4] == (0, 1, 2, 3)
    assert ordered(Feedback(weight=0.5), values, groups)[:2] == (0, 3)


def test_it_does_not_pass_those_who_stood_far_above_it() -> None:
    values, groups = [9.0, 8.5, 1.0, 0.0, 0.5, 0.2], [1, 2, 3, 1, 4, 5]
    assert ordered(Feedback(weight=0.3), values, groups)[:2] == (0, 1)


@given(scores)
def test_where_all_are_alike_the_order_stays(values: list[float]) -> None:
    assert ordered(Feedback(), values, [0] * len(values)) == by_score(values)


@given(scores, st.floats(0.1, 10), st.floats(-5, 5), st.integers(0, 10))
def test_the_unit_of_the_scores_does_not_matter(values: list[float], slope: float, shift: float, seed: int) -> None:
    groups = [(place * 7 + seed) % 4 for place in range(len(values))]
    result = run(Feedback().plan(Pool(len(values), scores=tuple(values))), likened(groups), len(values))
    moved = [value * slope + shift for value in values]
    other = run(Feedback().plan(Pool(len(values), scores=tuple(moved))), likened(groups), len(values))
    assert result.scores is not None
    assert other.scores is not None
    assert [score for score in other.scores if score is not None] == pytest.approx(list(result.scores), abs=1e-6)


@given(scores.filter(bool), st.integers(1, 40), st.floats(0.01, 1))
def test_the_best_are_asked_about_and_no_more_of_them_than_top_and_share_allow(
    values: list[float], top: int, share: float
) -> None:
    asked: list[int] = []

    def panel(questions: Sequence[Question[Any]]) -> list[Any]:
        asked.extend(question.item for question in questions if isinstance(question, Liken))
        return likened([0] * len(values))(questions)

    run(Feedback(top=top, share=share).plan(Pool(len(values), scores=tuple(values))), panel, len(values))
    assert tuple(asked) == by_score(values)[: len(asked)]
    assert len(asked) == 1 or 1 < len(asked) <= min(top, share * len(values) + 0.5)


@pytest.mark.parametrize(
    "options",
    [{"weight": -0.1}, {"weight": float("nan")}, {"sharpness": -1.0}, {"top": 0}, {"share": 0.0}, {"share": 1.5}],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Feedback(**options)
