"""Agreement: 1 where all say the same, -1 where one says the reverse, and never about names or who speaks first."""

from __future__ import annotations

from itertools import combinations
from statistics import pvariance

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_server.labels.agreement import agreement, kendall_tau, rank_variance, top_overlap
from tests.labels.made_up import UNHURRIED, orders

Order = tuple[int, ...]

PAIR = st.integers(0, 30).flatmap(lambda n: st.tuples(orders(n), orders(n)))
RUNS = st.integers(1, 12).flatmap(lambda n: st.lists(orders(n), min_size=2, max_size=5))


@UNHURRIED
@given(PAIR)
def test_tau_is_the_share_of_pairs_that_stand_alike(pair: tuple[Order, Order]) -> None:
    one, other = pair
    place = {item: rank for rank, item in enumerate(other)}
    alike = [1 if place[a] < place[b] else -1 for a, b in combinations(one, 2)]

    assert kendall_tau(one, other) == pytest.approx(sum(alike) / len(alike) if alike else 1.0)


@UNHURRIED
@given(st.integers(2, 50).flatmap(orders))
def test_the_same_is_one_and_the_reverse_is_minus_one(order: Order) -> None:
    assert kendall_tau(order, order) == 1.0
    assert kendall_tau(order, order[::-1]) == -1.0


@UNHURRIED
@given(PAIR, st.randoms(use_true_random=False))
def test_neither_names_nor_who_speaks_first_matter(pair: tuple[Order, Order], chance: object) -> None:
    one, other = pair
    names = list(range(len(one)))
    chance.shuffle(names)  # type: ignore[attr-defined]
    renamed = tuple(names[item] for item in one), tuple(names[item] for item in other)

    assert kendall_tau(*renamed) == kendall_tau(one, other) == kendall_tau(other, one)
    for top in (1, 3):
        assert top_overlap(*renamed, top) == top_overlap(one, other, top) == top_overlap(other, one, top)


@UNHURRIED
@given(RUNS)
def test_runs_that_all_say_the_same_agree_wholly(runs: list[Order]) -> None:
    found = agreement([runs[0]] * 3)

    assert (found.kendall_tau, found.kendall_tau_min, found.top_overlap) == (1.0, 1.0, 1.0)
    assert set(found.rank_variance) == {0.0}


@UNHURRIED
@given(RUNS, st.integers(1, 15))
def test_bounds_and_the_order_of_the_runs(runs: list[Order], top: int) -> None:
    found, turned = agreement(runs, top=top), agreement(runs[::-1], top=top)

    assert -1 <= found.kendall_tau_min <= found.kendall_tau <= 1
    assert 0 <= found.top_overlap <= 1
    assert found.top == min(top, len(runs[0]))
    assert (found.kendall_tau, found.top_overlap) == (turned.kendall_tau, turned.top_overlap)
    assert found.rank_variance == turned.rank_variance
    # A whole list always overlaps with itself.
    assert top_overlap(runs[0], runs[1], len(runs[0])) == 1.0


@UNHURRIED
@given(RUNS)
def test_variance_is_that_of_the_ranks(runs: list[Order]) -> None:
    for item, variance in enumerate(rank_variance(runs)):
        assert variance == pytest.approx(pvariance([run.index(item) for run in runs]), abs=1e-9)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="same items"):
        kendall_tau((0, 1), (0, 2))
    with pytest.raises(ValueError, match="same items"):
        kendall_tau((0, 0), (0, 0))
    with pytest.raises(ValueError, match="1 runs"):
        agreement([(0, 1)])
    with pytest.raises(ValueError, match="top is 0"):
        top_overlap((0,), (0,), 0)
