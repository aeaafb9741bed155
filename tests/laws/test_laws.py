"""Every registered strategy keeps every law."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podium_strategies.permutation import is_permutation
from podium_strategies.plan import Strategy
from tests.laws import laws
from tests.laws.judges import whimsical
from tests.laws.samples import JOINED_VOTES, cases

CASES = cases()
STOPPABLE = {name: strategy for name, strategy in CASES.items() if getattr(strategy, "base", None) != JOINED_VOTES}
each_strategy = pytest.mark.parametrize("strategy", CASES.values(), ids=CASES.keys())
drawn = settings(
    max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@each_strategy
@drawn
@given(n=st.integers(0, 40), seed=st.integers(0, 2**32))
def test_it_returns_a_permutation_whatever_the_judge_answers(strategy: Strategy, n: int, seed: int) -> None:
    laws.it_returns_a_permutation(strategy, n, seed)


@each_strategy
def test_it_returns_a_permutation_for_every_size(strategy: Strategy) -> None:
    for n in range(41):
        ranking, _ = laws.complete(strategy, laws.pools(n)[n % 4], whimsical(n))
        assert is_permutation(ranking.order, n)


@each_strategy
def test_a_truthful_judge_brings_the_best_to_the_promised_ranks(strategy: Strategy) -> None:
    for n in laws.SIZES:
        laws.it_keeps_its_promise(strategy, n)


@each_strategy
@drawn
@given(n=st.integers(0, 40), seed=st.integers(0, 2**32))
def test_lockstep_and_the_order_of_arrival_change_nothing(strategy: Strategy, n: int, seed: int) -> None:
    laws.lockstep_equals_alone(strategy, n, seed)


@each_strategy
@drawn
@given(n=st.integers(0, 40), seed=st.integers(0, 2**32))
def test_the_forecast_equals_or_bounds_the_questions_asked(strategy: Strategy, n: int, seed: int) -> None:
    laws.the_forecast_is_right(strategy, n, seed)


@pytest.mark.parametrize("strategy", STOPPABLE.values(), ids=STOPPABLE.keys())
@drawn
@given(n=st.integers(0, 40), seed=st.integers(0, 2**32))
def test_stopped_at_any_time_it_is_no_worse_than_given(strategy: Strategy, n: int, seed: int) -> None:
    laws.stopping_does_no_harm(strategy, n, seed)


@each_strategy
def test_closing_keeps_the_order(strategy: Strategy) -> None:
    for n in laws.SIZES:
        laws.stopping_keeps_the_order(strategy, n)
