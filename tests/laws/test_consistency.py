"""Permutation self-consistency: what is shuffled, and how orders become one."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest

from podium_strategies.consistency import AGGREGATES, SelfConsistency, borda, local_kemeny, reciprocal
from podium_strategies.listwise import SlidingWindow
from podium_strategies.pairwise import PairwiseHeapsort
from podium_strategies.plan import Order, Prefer
from podium_strategies.pointwise import Pointwise
from podium_strategies.pool import Pool
from tests.laws.judges import as_shown, whimsical
from tests.laws.laws import complete


def test_every_prompt_is_shuffled_and_the_pool_is_not() -> None:
    _, asked = complete(SelfConsistency(m=3), Pool(100), lambda question: tuple(sorted(question.items)))
    windows = [question for question in asked if isinstance(question, Order)]
    assert len(windows) == 27
    for first in windows[:3]:
        assert sorted(first.candidates) == list(range(80, 100))
    assert len({window.candidates for window in windows[:3]}) == 3
    assert all(window.candidates != tuple(sorted(window.candidates)) for window in windows)


def test_what_has_no_order_is_asked_as_it_is() -> None:
    _, asked = complete(SelfConsistency(Pointwise(), m=2), Pool(5), as_shown)
    assert len(asked) == 10
    _, asked = complete(SelfConsistency(PairwiseHeapsort(), m=2), Pool(2), as_shown)
    assert asked == [Prefer(1, 0), Prefer(0, 1)] * 2


def test_a_judge_who_follows_the_shown_order_is_found_out() -> None:
    """Alone such a judge changes nothing; over many shuffles its preference for a place averages out."""
    alone, _ = complete(SlidingWindow(), Pool(10), as_shown)
    assert alone.order == tuple(range(10))
    many, _ = complete(SelfConsistency(m=20), Pool(10), as_shown)
    assert many.order != alone.order


@pytest.mark.parametrize("aggregate", AGGREGATES.values())
def test_a_pair_on_which_all_agree_stays(aggregate: type) -> None:
    orders = [(0, 1, 2, 3, 4), (1, 0, 2, 4, 3), (0, 2, 1, 3, 4)]
    joined = aggregate(orders)
    for a, b in permutations(range(5), 2):
        if all(order.index(a) < order.index(b) for order in orders):
            assert joined.index(a) < joined.index(b)


def test_local_kemeny_leaves_no_neighbours_whom_a_majority_wants_exchanged() -> None:
    lots = whimsical(4)
    for _ in range(20):
        orders = [lots(Order(tuple(range(8)))) for _ in range(5)]
        for first, second in pairwise(local_kemeny(orders)):
            assert 2 * sum(order.index(second) < order.index(first) for order in orders) <= len(orders)


def test_borda_counts_ranks_and_rrf_favours_the_head() -> None:
    assert borda([(0, 1, 2), (2, 0, 1)]) == (0, 2, 1)
    assert borda([(0, 1), (1, 0)]) == (0, 1)
    assert reciprocal([(0, 1, 2), (2, 1, 0)]) == (0, 2, 1)


@pytest.mark.parametrize("options", [{"m": 0}, {"aggregate": "mean"}, {"base": "sliding-window"}])
def test_options_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(options))} is "):
        SelfConsistency(**options)  # type: ignore[arg-type]
