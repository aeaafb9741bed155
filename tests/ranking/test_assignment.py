"""Who is in an experiment: even, sticky, independent; and drafts that are fair."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_server.ranking.assignment import Arm, assigned, fingerprint, team_draft, unit

KEYS = [f"user-{number}" for number in range(20_000)]


def within(count: int, expected: float, variance: float) -> bool:
    """Tell whether a count is no further from what is expected than 4.5 standard deviations."""
    return abs(count - expected) <= 4.5 * math.sqrt(variance)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_a_share_of_the_keys_is_assigned(share: float) -> None:
    count = sum(assigned("an experiment", key, share) for key in KEYS)
    assert within(count, share * len(KEYS), share * (1 - share) * len(KEYS))


def test_experiments_divide_the_same_keys_independently() -> None:
    joint = Counter((assigned("one", key, 0.5), assigned("another", key, 0.5)) for key in KEYS)
    assert all(within(joint[one, other], len(KEYS) / 4, len(KEYS) * 3 / 16) for one, other in joint)
    assert len(joint) == 4


def test_assignment_and_coins_are_independent_of_the_log_and_of_each_other() -> None:
    assert len({unit(purpose, "x", "y") for purpose in ("arm", "log", "other")}) == 3


@given(st.text(max_size=20), st.text(max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_a_share_that_grows_keeps_its_keys(experiment: str, key: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert not assigned(experiment, key, low) or assigned(experiment, key, high)
    assert assigned(experiment, key, 1.0)
    assert not assigned(experiment, key, 0.0)


def test_a_fingerprint_depends_on_the_secret_and_tells_nothing_else() -> None:
    plain, keyed = fingerprint("who is it"), fingerprint("who is it", b"a secret")
    assert plain == fingerprint("who is it") != keyed
    assert len(plain) == len(keyed) == 16


@given(st.integers(0, 60).flatmap(lambda n: st.tuples(st.permutations(range(n)), st.permutations(range(n)))), st.text())
def test_a_draft_is_a_permutation_of_two_fair_teams(orders: tuple[list[int], list[int]], seed: str) -> None:
    incumbent, challenger = orders
    order, teams = team_draft(incumbent, challenger, "e", seed)
    assert sorted(order) == sorted(incumbent)
    assert len(teams) == len(order)
    for rank in range(0, len(order), 2):
        # Nobody is ever more than a pick ahead.
        assert abs(teams[: rank + 2].count(Arm.INCUMBENT) - teams[: rank + 2].count(Arm.CHALLENGER)) <= 1
    for own, arm in ((incumbent, Arm.INCUMBENT), (challenger, Arm.CHALLENGER)):
        for rank, (place, team) in enumerate(zip(order, teams, strict=True)):
            if team is arm:
                # Each pick is the best that was left on the captain's own list.
                assert place == next(each for each in own if each not in order[:rank])


def test_the_first_pick_is_a_coin_s() -> None:
    firsts = sum(team_draft((0, 1), (1, 0), "e", str(seed))[1][0] is Arm.CHALLENGER for seed in range(4000))
    assert within(firsts, 2000, 1000)
    assert team_draft((0, 1), (1, 0), "e", "7") == team_draft((0, 1), (1, 0), "e", "7")


def test_orders_of_other_candidates_are_refused() -> None:
    with pytest.raises(ValueError, match="2 and 3 candidates"):
        team_draft((0, 1), (0, 1, 2), "e", "")
