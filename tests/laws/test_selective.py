"""Selective reranking: when a stage is left out, and that it can be told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_strategies.early_exit import EarlyExit
from podium_strategies.listwise import SlidingWindow
from podium_strategies.oracle import Oracle
from podium_strategies.plan import Grade
from podium_strategies.pointwise import Pointwise
from podium_strategies.pool import Pool
from podium_strategies.selective import Selective, margin
from tests.laws.laws import complete

STANDS_OUT = (9.0, 8.5, 8.0, 1.0, 0.9, 0.8, 0.7, 0.6)
EVEN = tuple(float(8 - item) for item in range(8))


def asked(strategy: Selective, pool: Pool) -> int:
    return len(complete(strategy, pool, Oracle.seeded(pool.n, 1).answer)[1])


def test_the_margin_is_the_part_of_the_fall_within_the_first_k() -> None:
    assert margin(EVEN, 3) == pytest.approx(3 / 7)
    assert margin(STANDS_OUT, 3) == pytest.approx(8 / 8.4)


@given(
    scores=st.lists(st.integers(-1000, 1000), min_size=5, max_size=30),
    k=st.integers(1, 3),
    scale=st.sampled_from([0.5, 2.0, 1024.0]),
    shift=st.integers(-100, 100),
)
def test_the_margin_knows_no_scale_and_no_zero(scores: list[int], k: int, scale: float, shift: int) -> None:
    falling = sorted((float(score) for score in scores), reverse=True)
    found = margin(falling, k)
    moved = margin([scale * score + shift for score in falling], k)
    assert (found is None) == (moved is None) == (falling[0] == falling[-1])
    if found is not None and moved is not None:
        assert moved == pytest.approx(found)
        assert 0 <= found <= 1


@pytest.mark.parametrize(
    "scores",
    [
        None,
        (1.0,) * 8,
        EVEN[::-1],
        (9.0, 1.0, 8.0, 0.9, 0.8, 0.7, 0.6, 0.5),
        (float("inf"), *EVEN[1:]),
        STANDS_OUT[:4],
    ],
    ids=["none", "all alike", "rising", "against the order", "infinite", "hardly more than k"],
)
def test_what_says_nothing_is_always_reranked(scores: tuple[float, ...] | None) -> None:
    assert margin(scores, 3) is None
    n = 8 if scores is None else len(scores)
    assert asked(Selective(threshold=0.01, k=3), Pool(n, scores)) == n


def test_a_clear_margin_asks_nothing_and_keeps_the_order() -> None:
    ranking, questions = complete(Selective(threshold=0.9, k=3), Pool(8, STANDS_OUT), Oracle.seeded(8, 1).answer)
    assert questions == []
    assert ranking.order == tuple(range(8))
    assert ranking.scores is None
    assert asked(Selective(threshold=0.9, k=3), Pool(8, EVEN)) == 8
    assert asked(Selective(k=3), Pool(8, STANDS_OUT)) == 8


def test_it_asks_what_its_base_asks() -> None:
    for base in (SlidingWindow(4, 2), EarlyExit(k=2, bound=1.0)):
        pool, oracle = Pool(8, EVEN), Oracle.seeded(8, 3)
        assert complete(Selective(base, 0.9, 3), pool, oracle.answer) == complete(base, pool, oracle.answer)
    assert Selective(SlidingWindow()).scale is None
    assert Selective(EarlyExit()).graded_by == "strong"
    assert Selective(Pointwise()).asks == {Grade}


@pytest.mark.parametrize("options", [{"base": "pointwise"}, {"threshold": 0.0}, {"threshold": 1.5}, {"k": 0}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(options))} is "):
        Selective(**options)
