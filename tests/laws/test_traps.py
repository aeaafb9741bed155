"""The traps that public implementations fell into, and the corners of each algorithm."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from podium_strategies.listwise import JointRank, SlidingWindow, TopDown, pagerank, winrate
from podium_strategies.oracle import Oracle
from podium_strategies.pairwise import (
    Knockout,
    PairwiseBubble,
    PairwiseHeapsort,
    RoundRobin,
    Swiss,
    verdict,
)
from podium_strategies.plan import Order, Pick, PlanTooLarge, Prefer, Question, Strategy
from podium_strategies.pool import Pool
from podium_strategies.setwise import SetwiseBubble, SetwiseHeapsort
from podium_strategies.tournament import Leg, TourRank, legs
from podium_strategies.walks import climb, windows_from_tail
from tests.laws.judges import LazyOracle, as_shown, undecided
from tests.laws.laws import complete


def asked_by(strategy: Strategy, n: int, judge: Any = as_shown) -> list[Question[Any]]:
    return complete(strategy, Pool(n), judge)[1]


# --- sliding windows: the head is seen, whatever N is -------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 9, 10, 11, 19, 20, 21, 29, 30, 31, 94, 95, 96, 99, 100, 101])
@pytest.mark.parametrize("step", [(20, 10), (20, 7), (10, 5), (10, 9), (3, 1), (2, 1)])
def test_the_last_window_starts_at_the_head_and_all_are_covered(n: int, step: tuple[int, int]) -> None:
    windows = list(windows_from_tail(n, *step))
    assert windows[-1].start == 0
    assert windows[0].stop == n
    assert {place for window in windows for place in range(n)[window]} == set(range(n))
    assert all(2 <= window.stop - window.start <= step[0] for window in windows)


def test_at_95_candidates_the_first_five_are_seen() -> None:
    windows = asked_by(SlidingWindow(), 95)
    assert {0, 1, 2, 3, 4} <= set(windows[-1].items)
    assert len(windows) == 9


@pytest.mark.parametrize("strategy", [SlidingWindow(), TopDown(), JointRank()])
@pytest.mark.parametrize("n", [2, 10, 19, 20])
def test_what_fits_one_window_is_one_call(strategy: Strategy, n: int) -> None:
    assert [sorted(question.items) for question in asked_by(strategy, n)] == [list(range(n))]


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_to_order_is_nothing_to_ask(n: int) -> None:
    for strategy in (
        SlidingWindow(),
        TopDown(),
        JointRank(),
        TourRank(),
        RoundRobin(),
        PairwiseHeapsort(),
        PairwiseBubble(),
        Knockout(),
        Swiss(),
        SetwiseHeapsort(),
        SetwiseBubble(),
    ):
        assert asked_by(strategy, n) == []


def test_ten_candidates_are_asked_about_when_the_window_is_ten() -> None:
    assert len(asked_by(SlidingWindow(10, 5), 10)) == 1


# --- top-down partitioning ------------------------------------------------------------------------------------------


def test_tdpart_stops_when_nobody_beats_the_pivot() -> None:
    questions = asked_by(TopDown(), 100, Oracle([-item for item in range(100)]).answer)
    assert len(questions) == 6
    pivot = 9
    assert all(pivot in question.items for question in questions)


@pytest.mark.parametrize("n", [21, 39, 40, 58, 100, 199, 381, 382, 500, 1000])
def test_tdpart_sees_every_candidate(n: int) -> None:
    for judge in (as_shown, undecided, Oracle.seeded(n, 3).answer):
        assert {item for question in asked_by(TopDown(), n, judge) for item in question.items} == set(range(n))


@pytest.mark.parametrize("n", [100, 381, 382, 500, 1000, 2000])
def test_tdpart_finds_the_best_in_a_reversed_order_too(n: int) -> None:
    for oracle in (Oracle([float(item) for item in range(n)]), Oracle.seeded(n, 1), Oracle.seeded(n, 2)):
        ranking, asked = complete(TopDown(), Pool(n), oracle.answer)
        assert ranking.order[0] == oracle.truth[0]
        assert len(asked) <= TopDown().ceiling(n)


def test_tdpart_shows_no_window_larger_than_its_size() -> None:
    for n in (100, 500):
        questions = asked_by(TopDown(), n, Oracle.seeded(n, 1).answer)
        assert all(len(question.items) <= 20 for question in questions)


def test_a_poor_first_stage_does_not_cost_tdpart_more_than_seven_calls() -> None:
    reversed_truth = Oracle([float(item) for item in range(100)])
    ranking, asked = complete(TopDown(), Pool(100), reversed_truth.answer)
    assert len(asked) == 7
    assert ranking.order[:3] == reversed_truth.truth[:3]


# --- tournaments ----------------------------------------------------------------------------------------------------


def test_the_stages_of_a_hundred_are_the_papers() -> None:
    assert legs(100, 20) == [Leg(100, 5, 50), Leg(50, 5, 20), Leg(20, 1, 10), Leg(10, 1, 5), Leg(5, 1, 2)]


@pytest.mark.parametrize("size", [3, 8, 20])
def test_stages_are_derived_for_any_number(size: int) -> None:
    for n in range(400):
        _check_stages(legs(n, size), n, size)


def _check_stages(stages: list[Leg], n: int, size: int) -> None:
    for leg, following in pairwise(stages):
        assert leg.promoted == following.entrants
    for leg in stages:
        largest = -(-leg.entrants // leg.groups)
        shares = [leg.share(group) for group in range(leg.groups)]
        assert 2 <= largest <= size
        assert sum(shares) == leg.promoted < leg.entrants
        assert min(shares) >= 1
        assert all(share <= len(range(group, leg.entrants, leg.groups)) for group, share in enumerate(shares))
    if n >= 2:
        assert stages[0].entrants == n
        assert stages[-1].groups == 1
        assert stages[-1].promoted <= 2


def test_groups_take_every_g_th_candidate_and_show_them_shuffled() -> None:
    first_stage = asked_by(TourRank(), 100)[:5]
    assert [sorted(question.items) for question in first_stage] == [list(range(g, 100, 5)) for g in range(5)]
    assert all(question.items != tuple(sorted(question.items)) for question in first_stage)
    assert [question.top for question in first_stage if isinstance(question, Order)] == [10] * 5


def test_two_tournaments_shuffle_differently() -> None:
    questions = asked_by(TourRank(r=2), 20)
    assert questions[0].items != questions[1].items
    assert sorted(questions[0].items) == sorted(questions[1].items)


def test_equal_points_follow_what_was_paid_for_then_first_stage_order() -> None:
    truth = LazyOracle([float(item) for item in range(100)])
    ranking, _ = complete(TourRank(), Pool(100), truth.answer)
    assert ranking.order[:4] == (99, 98, 97, 96)
    assert ranking.scores is not None
    assert ranking.scores[99] == ranking.scores[98] == 5.0
    assert list(ranking.order[50:]) == sorted(ranking.order[50:])  # without a point there is no place to go by


# --- sorts: ties are stable, and the rest keeps its order -----------------------------------------------------------


@pytest.mark.parametrize("build", [RoundRobin, PairwiseHeapsort, PairwiseBubble])
@pytest.mark.parametrize("both_orders", [True, False])
def test_a_judge_who_cannot_tell_changes_nothing(build: Any, both_orders: bool) -> None:
    order = complete(build(both_orders=both_orders), Pool(23), lambda _: 0.5)[0].order
    assert order == tuple(range(23))


def test_a_tied_game_goes_to_the_better_seed() -> None:
    assert complete(Knockout(k=5), Pool(23), lambda _: 0.5)[0].order[0] == 0
    assert complete(Swiss(), Pool(2), lambda _: 0.5)[0].order == (0, 1)


@pytest.mark.parametrize("strategy", [RoundRobin(), PairwiseHeapsort(), PairwiseBubble()])
def test_position_bias_is_a_tie_when_both_orders_are_shown(strategy: Strategy) -> None:
    assert complete(strategy, Pool(9), as_shown)[0].order == tuple(range(9))


@pytest.mark.parametrize("strategy", [PairwiseHeapsort(k=3), SetwiseHeapsort(k=3), SetwiseHeapsort(c=7, k=3)])
def test_the_rest_of_a_heapsort_is_in_first_stage_order(strategy: Strategy) -> None:
    for seed in range(5):
        oracle = Oracle.seeded(40, seed)
        order = complete(strategy, Pool(40), oracle.answer)[0].order
        assert order[:3] == oracle.truth[:3]
        assert list(order[3:]) == sorted(order[3:])


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ([0.9, 0.2], 1.0),
        ([0.2, 0.9], 0.0),
        ([0.9, 0.9], 0.5),
        ([0.1, 0.1], 0.5),
        ([0.5, 0.1], 0.5),
        ([0.9, 0.5], 0.5),
        ([float("nan"), 0.1], 0.5),
        ([0.6], 1.0),
        ([0.4], 0.0),
        ([0.5], 0.5),
    ],
)
def test_a_pair_wins_in_both_orders_or_not_at_all(shown: list[float], expected: float) -> None:
    assert verdict(shown) == expected


def test_every_pair_is_shown_in_both_orders_in_one_round() -> None:
    questions = asked_by(PairwiseBubble(k=1), 3)
    assert questions == [Prefer(2, 1), Prefer(1, 2), Prefer(1, 0), Prefer(0, 1)]


def test_a_round_robin_of_ten_thousand_is_refused_before_it_is_built() -> None:
    with pytest.raises(PlanTooLarge, match=r"99990000.*questions_max is 250000"):
        complete(RoundRobin(), Pool(10_000), as_shown)


def test_swiss_players_do_not_meet_twice() -> None:
    for seed in range(5):
        questions = asked_by(Swiss(rounds=9, both_orders=False), 21, Oracle.seeded(21, seed).answer)
        pairs = [frozenset(question.items) for question in questions]
        assert len(set(pairs)) == len(pairs)


@pytest.mark.parametrize("build", [Swiss, Knockout, TourRank])
def test_the_best_wins_wherever_it_stood(build: Any) -> None:
    """Whoever finds no partner in a round, as one does in an odd field, must not lose the lead by it."""
    for n in range(1, 20):
        for best in range(n):
            utility = [float(item) for item in range(n)]
            utility[best] = float(n)
            assert complete(build(), Pool(n), Oracle(utility).answer)[0].order[0] == best


def test_a_knockout_asks_n_minus_1_pairs_for_the_best() -> None:
    assert len(asked_by(Knockout(k=1), 100)) == 2 * 99


def test_setwise_sets_hold_c_candidates() -> None:
    for strategy, most in ((SetwiseHeapsort(c=10), 10), (SetwiseBubble(c=4), 4)):
        questions = asked_by(strategy, 60)
        assert all(isinstance(question, Pick) and 2 <= len(question.items) <= most for question in questions)


def test_a_climb_ends_at_its_goal() -> None:
    assert list(climb(6, 3, 0)) == [slice(3, 6), slice(1, 4), slice(0, 2)]
    assert list(climb(6, 3, 3)) == [slice(3, 6)]
    assert list(climb(6, 3, 5)) == []
    assert list(climb(2, 3, 0)) == [slice(0, 2)]


# --- blocks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "size", "replicas"), [(100, 20, 2), (21, 20, 2), (95, 20, 3), (47, 6, 2), (5, 2, 4)])
def test_every_candidate_stands_in_its_number_of_blocks(n: int, size: int, replicas: int) -> None:
    blocks = [question.items for question in asked_by(JointRank(size, replicas), n)]
    assert len(blocks) == replicas * -(-n // size)
    assert all(len(block) <= size for block in blocks)
    for item in range(n):
        assert sum(item in block for block in blocks) == replicas


def test_blocks_of_the_next_replica_mix_those_of_the_last() -> None:
    blocks = [set(question.items) for question in asked_by(JointRank(), 100)]
    assert all(len(first & second) == 4 for first in blocks[:5] for second in blocks[5:])


def test_pagerank_and_winrate_agree_on_one_ruling() -> None:
    ruling = (2, 0, 3, 1)
    for scores in (pagerank([ruling], 4), winrate([ruling], 4)):
        assert sorted(range(4), key=lambda item: -scores[item]) == list(ruling)
    assert sum(pagerank([ruling], 4)) == pytest.approx(1.0)


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (PairwiseHeapsort, {"k": 0}, "k is 0"),
        (RoundRobin, {"questions_max": 0}, "questions_max is 0"),
        (Swiss, {"rounds": 0}, "rounds is 0"),
        (SetwiseHeapsort, {"c": 1}, "c is 1"),
        (SetwiseBubble, {"k": 0}, "k is 0"),
        (TopDown, {"cutoff": 20}, "cutoff is 20 and size is 20"),
        (TopDown, {"partitions": 0}, "partitions is 0"),
        (JointRank, {"replicas": 0}, "replicas is 0"),
        (JointRank, {"aggregate": "elo"}, "'elo'"),
        (TourRank, {"r": 0}, "r is 0"),
        (TourRank, {"size": 2}, "size is 2"),
        (SlidingWindow, {"stride": 20}, "stride is 20 and size is 20"),
    ],
)
def test_a_configuration_that_exists_is_valid(build: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)
