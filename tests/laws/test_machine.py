"""The machine that runs plans: steps, branches, waiting, depth, and being stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from podium_strategies.drive import Execution, run, run_many
from podium_strategies.permutation import ahead, exchanged, is_permutation, resorted, risen, shuffled
from podium_strategies.plan import (
    Fork,
    Grade,
    Liken,
    Order,
    Permutation,
    Pick,
    Plan,
    PlanError,
    Prefer,
    Question,
    Ranking,
    Round,
    ask,
    ask_all,
    leave,
    reworded,
    together,
    until,
    within,
)
from tests.laws.judges import as_shown, panel

GIVEN = (0, 1, 2, 3)
SHOWN = panel(as_shown)


def asking(times: int, then: Callable[[], None] = lambda: None, item: int = 0) -> Plan[int]:
    """Ask `times` rounds, and do something."""
    for _ in range(times):
        yield from ask(Grade(item), GIVEN)
    then()
    return times


def ranked(plan: Plan[Any], order: Permutation = GIVEN) -> Plan[Ranking]:
    yield from plan
    return Ranking(order)


def finish(execution: Execution, answer: Callable[[Question[Any]], Any] = as_shown) -> Ranking:
    while batch := execution.take():
        for asked in batch:
            for index, question in enumerate(asked.questions):
                execution.answer(asked.id, index, answer(question))
    assert execution.result is not None
    return execution.result


# --- what a plan must not do ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 1, 2, 2), (1, 2, 3, 4), (0, 1, 2, 3, 4)])
def test_a_result_that_is_no_permutation_is_a_defect(order: Permutation) -> None:
    with pytest.raises(PlanError, match="not a permutation of 4 items"):
        run(ranked(leave(GIVEN), order), SHOWN, 4)


def test_an_order_on_the_way_that_is_no_permutation_is_a_defect() -> None:
    execution = Execution(ranked(ask(Grade(0), (0, 1))), 4)
    with pytest.raises(PlanError, match="not a permutation"):
        _ = execution.so_far


def test_a_result_that_is_no_ranking_is_a_defect() -> None:
    def plan() -> Any:
        yield from leave(GIVEN)
        return GIVEN

    with pytest.raises(PlanError, match="tuple instead of a Ranking"):
        run(plan(), SHOWN, 4)


def test_scores_are_one_an_item() -> None:
    def plan() -> Plan[Ranking]:
        yield from leave(GIVEN)
        return Ranking(GIVEN, (1.0, 2.0))

    with pytest.raises(PlanError, match="2 scores for 4 items"):
        run(plan(), SHOWN, 4)


def test_what_is_no_step_is_a_defect() -> None:
    def plan() -> Any:
        yield "a question"

    with pytest.raises(PlanError, match="str, which is no step"):
        run(plan(), SHOWN, 4)


@pytest.mark.parametrize("nested", [False, True])
def test_branches_that_wait_for_each_other_are_a_defect(nested: bool) -> None:
    def waiting() -> Plan[None]:
        yield from until(lambda: False)

    both = together(waiting(), waiting())
    plan = ranked(together(both, asking(2)) if nested else both)
    with pytest.raises(PlanError, match="waits for another"):
        run(plan, SHOWN, 4)


def test_a_plan_that_waits_alone_is_a_defect() -> None:
    with pytest.raises(PlanError, match="waits for another"):
        run(ranked(until(lambda: False)), SHOWN, 4)


def test_an_answer_is_given_once() -> None:
    execution = Execution(ranked(ask_all([Grade(0), Grade(1)], GIVEN)), 4)
    [asked] = execution.take()
    assert not execution.answer(asked.id, 1, 0.0)
    with pytest.raises(PlanError, match="answered twice"):
        execution.answer(asked.id, 1, 0.0)


# --- branches -------------------------------------------------------------------------------------------------------


def test_nothing_asked_is_nothing_waited_for() -> None:
    plan = ranked(ask_all([], GIVEN))
    assert finish(Execution(plan, 4)).order == GIVEN
    assert run(ranked(together()), SHOWN, 4).order == GIVEN
    assert run(ranked(together(leave(GIVEN), ask_all([], GIVEN))), SHOWN, 4).order == GIVEN


def test_results_come_in_the_order_of_the_branches() -> None:
    seen: list[int] = []

    def plan() -> Plan[Ranking]:
        seen.extend((yield from together(asking(3), asking(1), asking(0), asking(2))))
        return Ranking(GIVEN)

    run(plan(), SHOWN, 4)
    assert seen == [3, 1, 0, 2]


def test_forks_of_forks_join_and_count_their_longest_chain() -> None:
    def inner(*times: int) -> Plan[int]:
        return sum((yield from together(*(asking(number) for number in times))))

    def plan() -> Plan[Ranking]:
        results = yield from together(inner(1, 2), inner(3), asking(1))
        assert results == [3, 3, 1]
        yield from asking(2)
        return Ranking(GIVEN)

    execution = Execution(plan(), 4)
    finish(execution)
    assert execution.depth == 3 + 2
    assert execution.asked == 1 + 2 + 3 + 1 + 2


def test_a_branch_goes_on_as_soon_as_its_sibling_has_come_far_enough() -> None:
    done: list[int] = []

    def walker() -> Plan[None]:
        for number in range(4):
            yield from ask(Grade(0), GIVEN)
            done.append(number)

    def follower() -> Plan[None]:
        yield from until(lambda: len(done) >= 2)
        yield from ask(Grade(1), GIVEN)

    execution = Execution(ranked(together(follower(), walker())), 4)
    rounds: list[list[int]] = []
    depths: list[list[int]] = []
    while batch := execution.take():
        rounds.append(sorted(question.items[0] for asked in batch for question in asked.questions))
        depths.append([asked.depth for asked in batch])
        for asked in batch:
            execution.answer(asked.id, 0, 0.0)
    assert rounds == [[0], [0], [0, 1], [0]]
    assert depths == [[1], [2], [3, 3], [4]]


def test_a_branch_may_wait_for_a_nephew_and_set_another_one_free() -> None:
    done: set[str] = set()

    def chain(mine: str, after: str | None) -> Plan[None]:
        if after is not None:
            yield from until(lambda: after in done)
        yield from asking(1, lambda: done.add(mine))

    nested = together(together(chain("a", None)))
    execution = Execution(ranked(together(chain("c", "b"), chain("b", "a"), nested)), 4)
    finish(execution)
    assert done == {"a", "b", "c"}
    assert execution.depth == 3


def test_the_critical_path_is_the_longest_chain_in_cost() -> None:
    done: list[int] = []

    def follower() -> Plan[None]:
        yield from until(lambda: bool(done))
        yield from ask(Grade(2), GIVEN)

    plan = ranked(together(asking(1, lambda: done.append(1), item=0), asking(1, item=1), follower()))
    execution = Execution(plan, 4)
    first, second = execution.take()
    execution.answer(second.id, 0, 0.0, cost=5.0)
    execution.answer(first.id, 0, 0.0, cost=2.0)
    [last] = execution.take()
    assert last.depth == 2
    execution.answer(last.id, 0, 0.0, cost=1.0)
    assert execution.critical_path == 5.0
    assert execution.depth == 2


def test_a_round_takes_as_long_as_its_longest_answer() -> None:
    execution = Execution(ranked(ask_all([Grade(0), Grade(1)], GIVEN)), 4)
    [asked] = execution.take()
    execution.answer(asked.id, 0, 0.0, cost=4.0)
    execution.answer(asked.id, 1, 0.0, cost=1.0)
    assert execution.critical_path == 4.0


def test_plans_run_side_by_side_share_batches() -> None:
    batches: list[int] = []

    def judge(questions: Any) -> list[Any]:
        batches.append(len(questions))
        return [as_shown(question) for question in questions]

    run_many([(ranked(asking(number)), 4) for number in (1, 3, 0)], judge)
    assert batches == [2, 1, 1]


# --- what stands when it is stopped ---------------------------------------------------------------------------------


def test_before_anything_is_known_the_given_order_stands() -> None:
    assert Execution(ranked(together(asking(1)), (3, 2, 1, 0)), 4).so_far == GIVEN
    assert Execution(ranked(leave(GIVEN), (3, 2, 1, 0)), 4).so_far == (3, 2, 1, 0)


def test_a_round_cut_short_is_salvaged() -> None:
    def plan() -> Plan[Ranking]:
        yield from ask_all([Grade(0), Grade(1)], GIVEN, lambda known: (3, 2, 1, 0) if 1 in known else GIVEN)
        return Ranking(GIVEN)

    execution = Execution(plan(), 4)
    [asked] = execution.take()
    assert execution.so_far == GIVEN
    execution.answer(asked.id, 1, 0.0)
    assert execution.so_far == (3, 2, 1, 0)
    execution.close()
    assert execution.so_far == (3, 2, 1, 0)
    assert execution.take() == []


def test_branches_are_joined_and_one_that_has_ended_counts_as_it_ended() -> None:
    def branch(first: Permutation, last: Permutation) -> Plan[None]:
        yield from ask(Grade(0), first)
        yield from leave(last)

    joined: list[list[Permutation]] = []

    def join(orders: Any) -> Permutation:
        joined.append(list(orders))
        return (3, 1, 2, 0)

    def plan() -> Plan[Ranking]:
        branches = branch(GIVEN, (1, 0, 2, 3)), branch((2, 0, 1, 3), GIVEN)
        yield from together(*branches, join=join)
        return Ranking(GIVEN)

    execution = Execution(plan(), 4)
    first, _ = execution.take()
    assert execution.so_far == (3, 1, 2, 0)
    assert joined.pop() == [GIVEN, (2, 0, 1, 3)]
    execution.answer(first.id, 0, 0.0)
    assert execution.so_far == (3, 1, 2, 0)
    assert joined.pop() == [(1, 0, 2, 3), (2, 0, 1, 3)]


def test_without_a_join_the_branch_that_asked_last_stands() -> None:
    def branch(*orders: Permutation) -> Plan[None]:
        for order in orders:
            yield from ask(Grade(0), order)

    execution = Execution(ranked(together(branch((1, 0, 2, 3), (2, 0, 1, 3)), branch((3, 0, 1, 2)))), 4)
    first, _ = execution.take()
    assert execution.so_far == (3, 0, 1, 2)
    execution.answer(first.id, 0, 0.0)
    assert execution.so_far == (2, 0, 1, 3)


def test_closing_closes_every_generator() -> None:
    closed: list[int] = []

    def branch(number: int) -> Plan[None]:
        try:
            yield from asking(5)
        finally:
            closed.append(number)

    execution = Execution(ranked(together(branch(1), together(branch(2), branch(3)))), 4)
    execution.close()
    assert sorted(closed) == [1, 2, 3]
    assert execution.so_far == GIVEN


# --- plans inside plans ---------------------------------------------------------------------------------------------


def test_within_renames_questions_answers_and_orders() -> None:
    seen: list[Any] = []

    def inner() -> Plan[Ranking]:
        questions: list[Question[Any]] = [
            Grade(1),
            Prefer(0, 1),
            Pick((0, 1)),
            Order((1, 0), top=1, role="fast"),
            Liken(0, (0, 1)),
        ]
        seen.extend((yield from ask_all(questions, (1, 0), lambda known: known.get(3, (1, 0)))))
        return Ranking((1, 0), (0.5, 0.7))

    execution = Execution(_lifted(inner()), 4)
    [asked] = execution.take()
    assert asked.questions == (
        Grade(2, "s"),
        Prefer(3, 2, "s"),
        Pick((3, 2), "s"),
        Order((2, 3), 1, "s.fast"),
        Liken(3, (3, 2), "s"),
    )
    assert execution.so_far == (2, 3, 0, 1)
    answers = [0.1, 0.9, 2, (3, 2), (1.0, 0.3)]
    for index in (3, 0, 1, 2):
        execution.answer(asked.id, index, answers[index])
    assert execution.so_far == (3, 2, 0, 1)
    execution.answer(asked.id, 4, answers[4])
    assert seen == [0.1, 0.9, 1, (0, 1), (1.0, 0.3)]
    assert execution.result == Ranking((2, 3, 0, 1))


def _lifted(inner: Plan[Ranking]) -> Plan[Ranking]:
    ranking = yield from within(inner, items=(3, 2), rest=(0, 1), role="s")
    assert ranking.scores == (0.5, 0.7)
    return Ranking((*ranking.order, 0, 1))


def test_within_renames_in_branches_and_joins_in_inner_names() -> None:
    joined: list[list[Permutation]] = []

    def inner() -> Plan[Ranking]:
        def join(orders: Any) -> Permutation:
            joined.append(list(orders))
            return (1, 0)

        yield from together(ask(Grade(0), (0, 1)), ask(Grade(1), (1, 0)), join=join)
        return Ranking((1, 0), (0.5, 0.7))

    execution = Execution(_lifted(inner()), 4)
    assert [asked.questions for asked in execution.take()] == [(Grade(3, "s"),), (Grade(2, "s"),)]
    assert execution.so_far == (2, 3, 0, 1)
    assert joined == [[(0, 1), (1, 0)]]


def test_a_plan_inside_another_that_has_ended_counts_as_it_ended() -> None:
    """A voice of a fusion that is done has said all that it has to say, though the others still speak."""

    def inner() -> Plan[Ranking]:
        yield from ask(Grade(0), (0, 1))
        return Ranking((1, 0))

    def plan() -> Plan[Ranking]:
        voice = within(inner(), items=(3, 2), rest=(0, 1))
        yield from together(voice, ranked(asking(2)), join=lambda orders: orders[0])
        return Ranking(GIVEN)

    execution = Execution(plan(), 4)
    first, _ = execution.take()
    assert execution.so_far == (3, 2, 0, 1)
    execution.answer(first.id, 0, 0.0)
    assert execution.so_far == (2, 3, 0, 1)


def test_reworded_questions_are_answered_in_their_own_names() -> None:
    def turn(question: Question[Any]) -> Question[Any]:
        return Order(question.items[::-1])

    def inner() -> Plan[Ranking]:
        [order] = yield from together(ask(Order((0, 1, 2, 3)), GIVEN))
        return Ranking(order)

    plan = reworded(inner(), turn)
    step = plan.send(None)
    assert isinstance(step, Fork)
    assert run(reworded(inner(), turn), SHOWN, 4).order == (3, 2, 1, 0)
    plan.close()


# --- orders ---------------------------------------------------------------------------------------------------------


def test_an_empty_round_says_what_stands() -> None:
    assert list(leave((1, 0))) == [Round((), (1, 0))]


def test_orders_move_as_they_say() -> None:
    assert ahead((5, 4, 3, 2, 1, 0), best=(1, 3), group=(1, 3, 5)) == (1, 4, 3, 2, 5, 0)
    assert exchanged((0, 1, 2), [(2, 0), (2, 1), (0, 1)]) == (2, 0, 1)
    assert risen((0, 1, 2, 3), lambda a, b: (a, b) in {(3, 2), (3, 1), (2, 0)}) == (0, 3, 1, 2)
    assert resorted((0, 1, 2, 3), {0: 1.0, 3: 2.0}) == (3, 1, 2, 0)


def test_shuffles_depend_on_seed_and_salt_alone() -> None:
    first = shuffled(range(20), 1, 2)
    assert is_permutation(first, 20)
    assert first == shuffled(range(20), 1, 2)
    assert len({first, shuffled(range(20), 2, 1), shuffled(range(20), 1), shuffled(range(20), 1, 3)}) == 4
