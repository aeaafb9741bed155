"""TrueSkill against published numbers, and AcuRank's use of it."""

from __future__ import annotations

from statistics import NormalDist

import pytest

from podium_strategies.acurank import AcuRank, prior, top_chances
from podium_strategies.oracle import Oracle
from podium_strategies.pool import Pool
from podium_strategies.trueskill import rated
from tests.laws.judges import as_shown
from tests.laws.laws import complete

NEWCOMER = NormalDist(25, 25 / 3)


def rounded(beliefs: list[NormalDist]) -> list[tuple[float, float]]:
    return [(round(belief.mean, 2), round(belief.stdev, 2)) for belief in beliefs]


def test_a_game_of_two_newcomers() -> None:
    """The numbers of Microsoft's calculator and of the Python package `trueskill`."""
    assert rounded(rated([NEWCOMER] * 2)) == [(29.40, 7.17), (20.60, 7.17)]


def test_a_game_of_eight_newcomers() -> None:
    assert rounded(rated([NEWCOMER] * 8)) == [
        (36.77, 5.75),
        (32.24, 5.13),
        (29.07, 4.94),
        (26.32, 4.87),
        (23.68, 4.87),
        (20.93, 4.94),
        (17.76, 5.13),
        (13.23, 5.75),
    ]


def test_a_game_alone_teaches_nothing() -> None:
    [alone] = rated([NEWCOMER])
    assert alone.mean == pytest.approx(25)


def test_an_impossible_upset_stays_finite() -> None:
    weak, strong = rated([NormalDist(-1e4, 0.1), NormalDist(1e4, 0.1)])
    assert weak.mean > -1e4
    assert strong.mean < 1e4
    assert weak.stdev > 0


def test_as_many_are_expected_above_the_bar_as_belong_to_the_top() -> None:
    beliefs = [NormalDist(mean, 3) for mean in range(30)]
    assert sum(top_chances(beliefs, 10)) == pytest.approx(10, abs=1e-6)
    assert top_chances(beliefs, 30) == [1.0] * 30


@pytest.mark.parametrize("scores", [None, (2.0, -1.0, 0.5), (1.0, 0.5, 0.0)])
def test_scores_that_are_no_means_leave_the_first_stage_order(scores: tuple[float, ...] | None) -> None:
    means = [belief.mean for belief in prior(Pool(3, scores))]
    assert means == sorted(means, reverse=True)
    assert means[0] - means[-1] < 1


def test_scores_are_brought_to_the_scale_of_the_noise() -> None:
    assert [belief.mean for belief in prior(Pool(2, (0.8, 0.4)))] == [25.0, 12.5]


def test_acurank_asks_again_about_the_uncertain_only() -> None:
    _, asked = complete(AcuRank(), Pool(100), Oracle.seeded(100, 1).answer)
    first, again = asked[:5], asked[5:]
    assert sorted(item for question in first for item in question.items) == list(range(100))
    assert again
    assert len({item for question in again for item in question.items}) < 80


@pytest.mark.parametrize("n", [100, 101, 1000])
def test_acurank_never_exceeds_its_ceiling(n: int) -> None:
    strategy = AcuRank(epsilon=1e-9, tau=1)
    for judge in (as_shown, Oracle.seeded(n, 1).answer):
        _, asked = complete(strategy, Pool(n), judge)
        ceiling = strategy.ceiling(n)
        assert ceiling is not None
        assert len(asked) <= ceiling


def test_acurank_mostly_finds_the_true_top() -> None:
    """It promises nothing beyond a window; this is what it comes to."""
    found = 0
    for seed in range(10):
        oracle = Oracle.seeded(100, seed)
        order = complete(AcuRank(), Pool(100), oracle.answer)[0].order
        found += len(set(order[:10]) & set(oracle.truth[:10]))
    assert found >= 95
