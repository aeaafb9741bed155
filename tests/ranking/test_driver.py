"""A plan driven by real tasks: its order, its ledger, its budget, its end."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from podium_server.accounting.prices import Prices
from podium_server.accounting.usage import CostBasis, Usage
from podium_server.errors import (
    BackendDown,
    BudgetExhausted,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
    NotFound,
    Overloaded,
    PodiumError,
    Unavailable,
)
from podium_server.limits import Limits
from podium_server.ranking.request import Budget, Completion, Explain, OnExhausted, Provenance, Snapshot
from podium_strategies.oracle import Oracle
from tests.ranking.scripted import ScriptedJudge, pipeline, request, reranker

WINDOW = {"strategy": "sliding-window", "model": "m", "size": 4, "stride": 2}
PRICES = Prices(prompt_usd_per_mtok=1.0, output_usd_per_mtok=2.0, version="2026-11-21")


def judged(n: int, seed: int = 1, **more: Any) -> ScriptedJudge:
    return ScriptedJudge(Oracle.seeded(n, seed), **more)


@pytest.mark.parametrize("n", [1, 2, 5, 30])
async def test_the_driver_returns_what_lockstep_returns(n: int) -> None:
    judge = judged(n, delay_s=lambda number: 0.001 * (number % 3))
    stage = {"strategy": "sliding-window", "model": "m", "size": 4, "stride": 2, "passes": 2}
    outcome = await reranker(pipeline({"m": judge}, stage)).rerank(request(n))
    from podium_strategies.drive import run
    from podium_strategies.listwise import SlidingWindow
    from podium_strategies.pool import Pool

    expected = run(SlidingWindow(4, 2, 2).plan(Pool(n)), judge.oracle, n)
    assert outcome.order == expected.order
    assert outcome.completion is Completion.COMPLETE


async def test_the_ledger_adds_up() -> None:
    judge = judged(10, prices=PRICES)
    outcome = await reranker(pipeline({"m": judge}, WINDOW)).rerank(request(10))
    total = outcome.ledger.total()
    assert (total.calls, outcome.ledger.questions, outcome.ledger.rounds) == (4, 4, 4)
    assert total.prompt_tokens == 4 * 4 * 10
    assert total.output_tokens == 4 * 5
    assert total.cost_nano_usd == 160 * 1000 + 20 * 2000
    assert total.cost_basis is CostBasis.PRICE_TABLE
    [account] = outcome.ledger
    assert (account.stage, account.strategy, account.model, account.prompt_id) == (
        "sliding-window",
        "sliding-window",
        "scripted",
        "scripted/1",
    )


async def test_an_unknown_price_is_unset_and_warned_of_where_another_is_known() -> None:
    dear, unknown = judged(10, prices=PRICES, model="dear"), judged(10, model="unknown")
    outcome = await reranker(pipeline({"m": unknown}, WINDOW)).rerank(request(10))
    assert outcome.ledger.total().cost_nano_usd is None
    assert outcome.warnings == ()
    both = pipeline({"d": dear, "u": unknown}, {**WINDOW, "model": "d"}, {**WINDOW, "model": "u"})
    outcome = await reranker(both).rerank(request(10))
    assert outcome.ledger.total().cost_nano_usd is None
    assert [warning.code for warning in outcome.warnings] == ["PRICE_UNKNOWN"]


async def test_a_cascade_asks_each_stage_about_what_the_one_before_kept() -> None:
    fast, strong = judged(20, model="fast"), judged(20, model="strong")
    outcome = await reranker(
        pipeline({"f": fast, "s": strong}, {"strategy": "pointwise", "model": "f", "keep": 4}, {**WINDOW, "model": "s"})
    ).rerank(request(20))
    assert outcome.order == fast.oracle.truth
    assert {item for question in strong.asked for item in question.items} == set(fast.oracle.truth[:4])
    assert [(a.stage, a.candidates_in, a.candidates_out) for a in outcome.ledger] == [
        ("pointwise", 20, 4),
        ("sliding-window", 4, 4),
    ]


async def test_provenance_tells_who_was_looked_at() -> None:
    judge = judged(10, repaired_items=frozenset({3}))
    only_some = {"strategy": "pointwise", "model": "m"}
    outcome = await reranker(pipeline({"m": judge}, {"strategy": "first-stage", "keep": 5}, only_some)).rerank(
        request(10)
    )
    assert [outcome.provenance[i] for i in (0, 3, 7)] == [
        Provenance.SCORED,
        Provenance.REPAIRED,
        Provenance.CARRIED_OVER,
    ]


async def test_a_soft_deadline_returns_the_best_order_so_far() -> None:
    judge = judged(40, delay_s=lambda number: 0.0 if number < 5 else 60.0)
    budget = Budget(soft_deadline_s=0.1)
    outcome = await reranker(pipeline({"m": judge}, WINDOW)).rerank(request(40, budget=budget))
    assert outcome.completion is Completion.PARTIAL_DEADLINE
    assert sorted(outcome.order) == list(range(40))
    assert outcome.order != tuple(range(40)), "five windows were answered"
    assert judge.cancelled == 1, "the call under way is stopped"
    assert outcome.ledger.total().calls == 6, "and still charged"
    assert "PARTIAL" in [warning.code for warning in outcome.warnings]


async def test_a_soft_deadline_inside_a_round_keeps_the_answers_that_came() -> None:
    judge = judged(10, delay_s=lambda number: 0.0 if number < 9 else 60.0)
    outcome = await reranker(pipeline({"m": judge}, {"strategy": "pointwise", "model": "m"})).rerank(
        request(10, budget=Budget(soft_deadline_s=0.1))
    )
    graded = [item for item in judge.oracle.truth if item != 9]
    assert [item for item in outcome.order if item != 9] == graded


async def test_in_fail_mode_a_soft_deadline_is_an_error_with_what_was_spent() -> None:
    judge = judged(40, delay_s=lambda number: 0.0 if number < 5 else 60.0)
    budget = Budget(soft_deadline_s=0.05, on_exhausted=OnExhausted.FAIL)
    with pytest.raises(DeadlineExceeded) as caught:
        await reranker(pipeline({"m": judge}, WINDOW)).rerank(request(40, budget=budget))
    assert caught.value.spent.total().calls == 6  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "budget", [Budget(max_calls=3), Budget(max_tokens=3 * 45 + 44), Budget(max_cost_nano_usd=3 * 50_000 + 1)]
)
async def test_a_budget_is_never_passed(budget: Budget) -> None:
    judge = judged(40, prices=PRICES)
    outcome = await reranker(pipeline({"m": judge}, WINDOW)).rerank(request(40, budget=budget))
    assert outcome.completion is Completion.PARTIAL_BUDGET
    assert outcome.ledger.total().calls == 3
    assert sorted(outcome.order) == list(range(40))


async def test_a_budget_of_nothing_gives_the_first_stage_order_back() -> None:
    outcome = await reranker(pipeline({"m": judged(40)}, WINDOW)).rerank(request(40, budget=Budget(max_calls=0)))
    assert outcome.order == tuple(range(40))
    assert outcome.completion is Completion.PARTIAL_BUDGET


async def test_a_budget_in_fail_mode_is_an_error() -> None:
    with pytest.raises(BudgetExhausted):
        await reranker(pipeline({"m": judged(40)}, WINDOW)).rerank(
            request(40, budget=Budget(max_calls=3, on_exhausted=OnExhausted.FAIL))
        )


async def test_money_cannot_be_bounded_where_prices_are_unknown() -> None:
    with pytest.raises(FailedPrecondition, match="prices"):
        await reranker(pipeline({"m": judged(40)}, WINDOW)).rerank(request(40, budget=Budget(max_cost_nano_usd=10)))


async def test_a_backend_that_fails_half_way_leaves_a_marked_order() -> None:
    judge = judged(40, fail_at={5: BackendDown("gone")})
    outcome = await reranker(pipeline({"m": judge}, WINDOW)).rerank(request(40))
    assert outcome.completion is Completion.PARTIAL_BACKEND
    assert outcome.cause == "gone"
    assert outcome.order != tuple(range(40))
    assert outcome.ledger.total().calls == 6


async def test_a_backend_that_fails_before_any_answer_is_an_error() -> None:
    judge = judged(40, fail_at={0: BackendDown("gone")})
    with pytest.raises(BackendDown) as caught:
        await reranker(pipeline({"m": judge}, WINDOW)).rerank(request(40))
    assert caught.value.spent.total().calls == 1  # type: ignore[attr-defined]


async def test_a_callers_mistake_is_never_an_order() -> None:
    judge = judged(40, fail_at={5: FailedPrecondition("no log-probabilities")})
    with pytest.raises(FailedPrecondition):
        await reranker(pipeline({"m": judge}, WINDOW)).rerank(request(40))


async def test_a_cancelled_request_stops_its_judges_and_keeps_the_bill() -> None:
    judge = judged(40, delay_s=lambda number: 0.0 if number < 3 else 60.0)
    ranker = reranker(pipeline({"m": judge}, WINDOW))
    task = asyncio.create_task(ranker.rerank(request(40)))
    await asyncio.sleep(0.05)
    assert ranker.running == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (judge.cancelled, ranker.running) == (1, 0)
    assert ranker.spent_on_cancelled.calls == 4, "three answers and the call under way"


async def test_what_is_known_of_lost_money_is_not_lost_behind_what_is_not() -> None:
    def hanging(**more: Any) -> ScriptedJudge:
        return judged(4, delay_s=lambda _: 60.0, **more)

    judges = {"free": hanging(), "dear": hanging(prices=Prices(usd_per_call=1.0))}
    pipelines = [pipeline(judges, {"strategy": "pointwise", "model": name}, name=name) for name in judges]
    ranker = reranker(*pipelines)
    for name in judges:
        task = asyncio.create_task(ranker.rerank(request(4, pipeline=name)))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert ranker.spent_on_cancelled.calls == 8
    assert ranker.spent_on_cancelled.cost_nano_usd is None
    assert ranker.known_nano_usd_on_cancelled == 4_000_000_000


async def test_a_plug_in_that_is_broken_is_our_error_and_ends() -> None:
    judge = judged(10)
    judge.oracle.answer = lambda question: None  # type: ignore[method-assign]  # no answer that a plan can use
    with pytest.raises(TypeError):
        await asyncio.wait_for(reranker(pipeline({"m": judge}, WINDOW)).rerank(request(10)), 5)


async def test_snapshots_are_whole_and_get_better() -> None:
    seen: list[Snapshot] = []
    judge = judged(20)
    await reranker(pipeline({"m": judge}, WINDOW)).rerank(request(20), on_snapshot=seen.append)
    assert len(seen) == 9
    assert all(sorted(snapshot.order) == list(range(20)) for snapshot in seen)
    assert [snapshot.round for snapshot in seen] == list(range(1, 10))


async def test_the_trace_has_every_question_and_its_answer() -> None:
    outcome = await reranker(pipeline({"m": judged(10)}, WINDOW)).rerank(request(10, explain=Explain.QUESTIONS))
    assert [round_.question_count for round_ in outcome.trace] == [1, 1, 1, 1]
    assert all(asked.ruling is not None for round_ in outcome.trace for asked in round_.questions)


async def test_admission_is_refused_at_the_limit_and_while_draining() -> None:
    judge = judged(10, delay_s=lambda number: 60.0)
    ranker = reranker(pipeline({"m": judge}, WINDOW), limits=Limits(concurrent_requests=1))
    task = asyncio.create_task(ranker.rerank(request(10)))
    await asyncio.sleep(0.01)
    with pytest.raises(Overloaded, match="concurrent_requests"):
        await ranker.rerank(request(10))
    assert not await ranker.drained(0.01)
    with pytest.raises(Unavailable):
        await ranker.rerank(request(10))
    task.cancel()
    assert await ranker.drained(1.0)


async def test_inline_stages_are_built_and_refused_like_configured_ones() -> None:
    judge = judged(10)
    ranker = reranker(pipeline({"m": judge}, WINDOW), judges={"m": judge})
    outcome = await ranker.rerank(request(10, inline=(WINDOW,)))
    assert outcome.pipeline == ""
    assert outcome.ledger.total().calls == 4
    with pytest.raises(InvalidRequest, match="stride"):
        await ranker.rerank(request(10, inline=({**WINDOW, "stride": 9},)))
    with pytest.raises(NotFound, match="did you mean 'sliding-window'"):
        await ranker.rerank(request(10, inline=({**WINDOW, "strategy": "sliding-windw"},)))
    with pytest.raises(InvalidRequest, match="strid"):
        await ranker.rerank(request(10, inline=({**WINDOW, "strid": 2},)))


async def test_a_model_that_cannot_answer_is_refused_when_the_pipeline_is_built() -> None:
    from podium_strategies.plan import Grade

    with pytest.raises(FailedPrecondition, match="asks order"):
        pipeline({"m": judged(10, answers=frozenset({Grade}))}, WINDOW)


async def test_an_estimate_is_what_is_asked_and_calls_nobody() -> None:
    judge = judged(100, prices=PRICES)
    ranker = reranker(pipeline({"m": judge}, {**WINDOW, "size": 20, "stride": 10}))
    _, quote = ranker.estimate(request(100))
    assert judge.asked == []
    outcome = await ranker.rerank(request(100))
    total = outcome.ledger.total()
    assert (quote.forecast.questions, quote.forecast.rounds) == (9, 9)
    assert (quote.usage.calls, quote.usage.prompt_tokens) == (total.calls, total.prompt_tokens)
    assert quote.usage.cost_nano_usd == total.cost_nano_usd


async def test_too_many_questions_are_refused_before_the_first() -> None:
    judge = judged(500)
    ranker = reranker(pipeline({"m": judge}, {"strategy": "pointwise", "model": "m"}), limits=Limits(questions=499))
    with pytest.raises(InvalidRequest, match=r"limits\.questions"):
        await ranker.rerank(request(500))
    assert judge.asked == []


async def test_what_is_set_aside_for_a_question_is_free_again_with_its_answer() -> None:
    # A slow voice whose last grade is still out, beside one that asks a window at a time: 20 + 9 calls in all.
    slow = judged(20, delay_s=lambda number: 0.2 if number == 19 else 0.0)
    voices = [{"strategy": "pointwise", "model": "s"}, {**WINDOW, "model": "w"}]
    both = pipeline({"s": slow, "w": judged(20)}, {"strategy": "fusion", "of": voices})
    outcome = await reranker(both).rerank(request(20, budget=Budget(max_calls=29)))
    assert (outcome.completion, outcome.ledger.total().calls) == (Completion.COMPLETE, 29)


async def test_a_judge_that_sees_the_deadline_first_leaves_the_same_answer_as_our_own_clock() -> None:
    judge = judged(40, fail_at={0: DeadlineExceeded("the next attempt would begin after the deadline")})
    outcome = await reranker(pipeline({"m": judge}, WINDOW)).rerank(request(40, budget=Budget(soft_deadline_s=60)))
    assert outcome.completion is Completion.PARTIAL_DEADLINE
    assert outcome.order == tuple(range(40))
    assert "next attempt" in outcome.cause


async def test_a_judge_whose_backend_is_closed_under_it_ends_the_request() -> None:
    judge = judged(10, fail_at={0: asyncio.CancelledError()})  # type: ignore[dict-item]
    with pytest.raises(BackendDown, match="unanswered"):
        await asyncio.wait_for(reranker(pipeline({"m": judge}, WINDOW)).rerank(request(10)), 5)


async def test_money_that_cannot_be_bounded_names_the_model_without_a_price() -> None:
    free, dear = judged(10, model="free"), judged(10, prices=PRICES, model="dear")
    both = pipeline({"f": free, "d": dear}, {**WINDOW, "model": "d"}, {**WINDOW, "model": "f"})
    with pytest.raises(FailedPrecondition, match="that free uses"):
        await reranker(both).rerank(request(10, budget=Budget(max_cost_nano_usd=10**12)))


@pytest.mark.parametrize(
    ("stage", "key"),
    [
        ({**WINDOW, "weight": 2.0}, r"stages\[0\]\.weight"),
        ({"strategy": "first-stage", "model": "m"}, r"stages\[0\]\.model"),
        ({"strategy": "fusion", "model": "m", "of": [WINDOW]}, r"stages\[0\]\.model"),
        ({"strategy": "self-consistency", "model": "m", "base": {**WINDOW, "keep": 3}}, r"base\.keep"),
        ({"strategy": "self-consistency", "model": "m", "base": {"strategy": "fusion", "of": [WINDOW]}}, r"base\.of"),
        ({"strategy": "cascade", "stages": [WINDOW]}, "no Stage"),
    ],
)
async def test_a_key_that_would_count_for_nothing_is_refused(stage: dict[str, Any], key: str) -> None:
    with pytest.raises(InvalidRequest, match=key):
        pipeline({"m": judged(10)}, stage)


async def test_what_a_wrapped_strategy_says_about_its_judge_is_heard() -> None:
    base = {**WINDOW, "on_unreadable": "fail", "reask_missing": 2, "prompt": "rank-gpt"}
    built = pipeline({"m": judged(10)}, {"strategy": "self-consistency", "prompt": "rank-zephyr", "base": base})
    section = built.voices[0].section
    assert (section.model, section.on_unreadable, section.reask_missing) == ("m", "fail", 2)
    assert section.prompt == "rank-gpt"


async def test_no_stage_takes_the_account_of_recall() -> None:
    built = pipeline({"m": judged(10)}, {**WINDOW, "name": "recall"})
    assert [voice.role for voice in built.voices] == ["recall-2"]


async def test_the_most_that_an_estimate_tells_bounds_each_voice() -> None:
    cheap, dear = judged(100, model="cheap"), judged(100, prices=PRICES, model="dear")
    stages = ({"strategy": "pointwise", "model": "c"}, {"strategy": "setwise-heapsort", "model": "d"})
    _, quote = reranker(pipeline({"c": cheap, "d": dear}, *stages)).estimate(request(100))
    assert quote.usage_max is not None
    assert quote.usage_max.calls == pytest.approx(quote.forecast.questions_max, abs=1)
    by_calls = quote.voices[1].usage.prompt_tokens / quote.voices[1].usage.calls
    dearest = (quote.usage_max.calls - 100) * by_calls + 1000
    assert quote.usage_max.prompt_tokens == pytest.approx(dearest, rel=0.01)


async def test_an_estimate_reads_a_document_once_a_request_not_once_in_three() -> None:
    class ReadsOnce(ScriptedJudge):
        def estimate(self, case: Any, questions: Any) -> Usage:
            return Usage(calls=len({item for question in questions for item in question.items}))

    _, quote = reranker(
        pipeline({"m": ReadsOnce(Oracle.seeded(30, 1))}, {"strategy": "pointwise", "model": "m"})
    ).estimate(request(30))
    assert quote.usage.calls == 30


async def test_thousands_of_rounds_over_thousands_of_candidates_are_not_millions_of_copies() -> None:
    ranker = reranker(pipeline({"m": judged(4000)}, {"strategy": "pairwise-heapsort", "model": "m", "k": 1}))
    began = time.process_time()
    await ranker.rerank(request(4000))
    # 2 s here, and 12 where every round renames the whole pool.
    assert time.process_time() - began < 8


async def test_similarities_of_all_with_all_are_refused_where_they_would_fill_the_memory() -> None:
    ranker = reranker(pipeline({"m": judged(2001)}, {"strategy": "mmr", "model": "m"}))
    with pytest.raises(InvalidRequest, match="candidates_max is 2000"):
        await ranker.rerank(request(2001))


async def test_errors_of_ours_carry_a_reason() -> None:
    assert PodiumError("x").reason == "INTERNAL"


async def test_an_estimate_tells_the_time_once_it_was_measured() -> None:
    ranker = reranker(pipeline({"m": judged(10, delay_s=lambda number: 0.01)}, WINDOW))
    assert ranker.estimate(request(10))[1].time_s is None
    await ranker.rerank(request(10))
    quote = ranker.estimate(request(10))[1]
    assert quote.time_s == pytest.approx(4 * 0.01), "four rounds of one call, at what the judge said a call took"


async def test_stages_that_came_with_a_request_are_measured_whatever_they_are_called() -> None:
    judges = {name: judged(10, delay_s=lambda number: 0.01, model=name) for name in ("m", "other")}

    def named(name: str, model: str = "m") -> Any:
        return request(
            10, inline=({"strategy": "sliding-window", "size": 4, "stride": 2, "model": model, "name": name},)
        )

    ranker = reranker(pipeline(judges, WINDOW), judges=judges)
    await ranker.rerank(named("first"))
    assert ranker.estimate(named("second"))[1].time_s == pytest.approx(4 * 0.01), "names are callers' to invent"
    assert ranker.estimate(named("first", "other"))[1].time_s is None
