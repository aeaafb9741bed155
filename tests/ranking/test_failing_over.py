"""A stage whose model fails is left out where its section says so, and the next one goes on from the order before."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_server.accounting.prices import Prices
from podium_server.errors import BackendDown, BackendRefused, FailedPrecondition, InvalidRequest, Overloaded
from podium_server.ranking.request import Budget, Completion, OnExhausted
from podium_strategies.cascade import Cascade, Stage
from podium_strategies.drive import Execution, run
from podium_strategies.oracle import Oracle
from podium_strategies.permutation import is_permutation
from podium_strategies.plan import StageFailed
from podium_strategies.pointwise import Pointwise
from podium_strategies.pool import Pool
from podium_strategies.registry import build
from tests.ranking.scripted import ScriptedJudge, pipeline, request, reranker

GRADES = {"strategy": "pointwise", "model": "good"}
FAILS = {"strategy": "pointwise", "model": "bad", "on_failure": "skip"}
PRICES = Prices(usd_per_call=1e-6)
WINDOW = {"strategy": "sliding-window", "model": "bad", "size": 4, "stride": 2, "on_failure": "skip"}


def judges(n: int, error: Exception, *, after: int = 0) -> dict[str, Any]:
    return {
        "good": ScriptedJudge(Oracle.seeded(n, 1), model="good", prices=PRICES),
        "bad": ScriptedJudge(
            Oracle.seeded(n, 2),
            model="bad",
            fail_at=dict.fromkeys(range(after, 1000), error),
            prices=PRICES,
        ),
    }


@pytest.mark.parametrize("error", [BackendDown("gone"), BackendRefused("no"), Overloaded("full", retry_after_s=1.0)])
async def test_the_next_stage_answers_and_the_caller_is_told(error: Exception) -> None:
    both = judges(8, error)
    outcome = await reranker(pipeline(both, FAILS, GRADES)).rerank(request(8))
    alone = await reranker(pipeline(both, GRADES)).rerank(request(8))
    assert outcome.order == alone.order
    assert outcome.scores == alone.scores
    assert outcome.completion is Completion.PARTIAL_BACKEND
    assert outcome.cause == str(error)
    [warned] = outcome.warnings
    assert warned.code == "BACKEND_FAILED"
    assert "pointwise was given up" in warned.message
    # What the failed stage used stands in its account.
    failed, _ = outcome.ledger
    assert failed.usage.calls >= 1


@pytest.mark.parametrize("last", [FAILS, WINDOW])
async def test_a_last_stage_that_fails_leaves_the_order_before_it_and_no_scores(last: dict[str, Any]) -> None:
    both = judges(8, BackendDown("gone"))
    outcome = await reranker(pipeline(both, {**GRADES, "keep": 5}, last)).rerank(request(8))
    alone = await reranker(pipeline(both, GRADES)).rerank(request(8))
    assert outcome.order == alone.order
    assert set(outcome.scores) == {None}


async def test_what_was_answered_before_the_failure_counts() -> None:
    both = judges(12, BackendDown("gone"), after=3)
    outcome = await reranker(pipeline(both, {**WINDOW, "keep": 6}, GRADES)).rerank(request(12))
    so_far = run(build("sliding-window", {"size": 4, "stride": 2}).plan(Pool(12)), _first(both["bad"].oracle, 3), 12)
    assert set(outcome.order[:6]) == set(so_far.order[:6])
    assert outcome.completion is Completion.PARTIAL_BACKEND


def _first(oracle: Oracle, most: int) -> Any:
    """Answer truthfully so many times, and with what was shown from then on: what stands when nobody answers."""
    asked = 0

    def panel(questions: Any) -> list[Any]:
        nonlocal asked
        answers = []
        for question in questions:
            answers.append(oracle.answer(question) if asked < most else question.candidates)
            asked += 1
        return answers

    return panel


@pytest.mark.parametrize(
    ("stages", "budget"),
    [
        (({**FAILS, "on_failure": "fail"}, GRADES), Budget()),
        ((FAILS, GRADES), Budget(on_exhausted=OnExhausted.FAIL)),
    ],
)
async def test_it_fails_where_nobody_allowed_it_to_go_on(stages: Any, budget: Budget) -> None:
    with pytest.raises(BackendDown):
        await reranker(pipeline(judges(8, BackendDown("gone")), *stages)).rerank(request(8, budget=budget))


async def test_a_callers_mistake_is_never_left_out() -> None:
    with pytest.raises(FailedPrecondition):
        await reranker(pipeline(judges(8, FailedPrecondition("no")), FAILS, GRADES)).rerank(request(8))


async def test_a_budget_has_back_what_was_set_aside_for_a_stage_that_failed() -> None:
    both = judges(8, BackendDown("gone"))
    outcome = await reranker(pipeline(both, FAILS, GRADES)).rerank(request(8, budget=Budget(max_calls=16)))
    assert not [warned for warned in outcome.warnings if "budget" in warned.message]
    assert outcome.ledger.accounts["pointwise-2"].questions == 8


def test_a_voice_of_a_fusion_has_no_say() -> None:
    fused = {"strategy": "fusion", "of": [{**FAILS}, {**GRADES}]}
    with pytest.raises(InvalidRequest, match="on_failure"):
        pipeline(judges(4, BackendDown("gone")), fused)


ASKERS = ["pointwise", "setwise-heapsort", "pairwise-heapsort", "sliding-window", "tourrank", "pairwise-round-robin"]


@settings(deadline=None)
@given(st.sampled_from(ASKERS), st.sampled_from(ASKERS), st.integers(1, 14), st.integers(0, 60), st.booleans())
def test_given_up_after_any_answer_the_others_still_bring_a_permutation(
    one: str, other: str, n: int, answers: int, tail: bool
) -> None:
    stages = (Stage(build(one, {}), "a", keep=max(1, n // 2) if tail else None), Stage(build(other, {}), "b"))
    oracle = Oracle.seeded(n, 3)
    execution = Execution(Cascade(stages).plan(Pool(n)), n)
    given_up = False
    while execution.result is None:
        for asked in execution.take():
            for index, question in enumerate(asked.questions):
                if not given_up and not answers and question.role.startswith("a"):
                    before = execution.so_far
                    execution.give_up()
                    given_up = True
                    assert is_permutation(before, n)
                    break
                answers = max(0, answers - 1)
                execution.answer(asked.id, index, oracle.answer(question))
            if given_up:
                break
        if given_up:
            break
    while execution.result is None:
        for asked in execution.take():
            assert all(question.role.startswith("b") for question in asked.questions)
            for index, question in enumerate(asked.questions):
                execution.answer(asked.id, index, oracle.answer(question))
    assert is_permutation(execution.result.order, n)


def test_a_plan_that_is_no_cascade_cannot_go_on() -> None:
    execution = Execution(Pointwise().plan(Pool(3)), 3)
    with pytest.raises(StageFailed):
        execution.give_up()
