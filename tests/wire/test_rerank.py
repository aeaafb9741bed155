"""RerankService: the order, the ledger, the trace, the stream, the batch, the quote, the comparison."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.v1 import document_pb2, error_reason_pb2, ledger_pb2, ranking_pb2, rerank_service_pb2, strategy_pb2
from podium_server.accounting.prices import Prices
from podium_server.errors import BackendDown, BackendRefused
from podium_server.limits import Limits
from podium_server.transport.agreement import kendall_tau, overlap
from podium_strategies.oracle import Oracle
from tests.ranking.scripted import ScriptedJudge
from tests.wire.serving import WINDOW, ids, refused, request, serving, standing, until

Stream = rerank_service_pb2.StreamRerankRequest
Batch = rerank_service_pb2.BatchRerankRequest
Compare = rerank_service_pb2.CompareRequest
Contender = rerank_service_pb2.Contender
Estimate = rerank_service_pb2.EstimateRequest
INVALID = grpc.StatusCode.INVALID_ARGUMENT
PRICES = Prices(prompt_usd_per_mtok=1.0, output_usd_per_mtok=2.0, version="2026-11-21")


def judge(n: int = 16, **more: Any) -> ScriptedJudge:
    return ScriptedJudge(Oracle.seeded(n, 3), **more)


# --- Rerank -----------------------------------------------------------------------------------------------------


async def test_the_order_the_scores_and_the_ledger() -> None:
    truth = Oracle.seeded(6, 3).truth
    async with serving(standing(ScriptedJudge(Oracle.seeded(6, 3), prices=PRICES))) as stubs:
        answer = await stubs.rerank.Rerank(request(6, "points", top_n=4))
    assert [ranked.input_index for ranked in answer.ranking] == list(truth[:4])
    assert [ranked.rank for ranked in answer.ranking] == [1, 2, 3, 4]
    assert [ranked.score for ranked in answer.ranking] == [0.0, -1.0, -2.0, -3.0]
    assert {ranked.score_kind for ranked in answer.ranking} == {ranking_pb2.SCORE_KIND_LOGIT}
    assert {ranked.provenance for ranked in answer.ranking} == {ranking_pb2.PROVENANCE_SCORED}
    assert answer.completion == ranking_pb2.COMPLETION_COMPLETE
    assert answer.pipeline == "points"
    assert not answer.HasField("trace")
    (stage,) = answer.ledger.stages
    assert (stage.stage, stage.strategy, stage.model, stage.revision) == ("pointwise", "pointwise", "scripted", "r1")
    assert (stage.candidates_in, stage.candidates_out, stage.prompt_id) == (6, 6, "scripted/1")
    for usage in (stage.usage, answer.ledger.total):
        assert (usage.questions, usage.rounds, usage.calls) == (6, 1, 6)
        assert (usage.prompt_tokens, usage.output_tokens) == (60, 30)
        assert usage.cost_nano_usd == 60 * 1_000 + 30 * 2_000
        assert usage.cost_basis == ledger_pb2.COST_BASIS_PRICE_TABLE
        assert usage.price_table_version == "2026-11-21"
    assert answer.ledger.total.wall_time.ToNanoseconds() > 0


async def test_an_unknown_cost_is_unset() -> None:
    async with serving(standing(judge())) as stubs:
        answer = await stubs.rerank.Rerank(request(6, "points"))
    assert not answer.ledger.total.HasField("cost_nano_usd")
    assert answer.ledger.total.cost_basis == ledger_pb2.COST_BASIS_UNKNOWN


async def test_the_identity_is_free_and_gives_prior_scores_back() -> None:
    message = request(3)
    for place, document in enumerate(message.documents):
        document.prior_score = 3.0 - place
    async with serving(standing()) as stubs:
        answer = await stubs.rerank.Rerank(message)
    assert [ranked.score for ranked in answer.ranking] == [3.0, 2.0, 1.0]
    assert {ranked.score_kind for ranked in answer.ranking} == {ranking_pb2.SCORE_KIND_PRIOR}
    assert {ranked.provenance for ranked in answer.ranking} == {ranking_pb2.PROVENANCE_CARRIED_OVER}
    assert (answer.ledger.total.cost_nano_usd, answer.ledger.total.cost_basis) == (0, ledger_pb2.COST_BASIS_FREE)
    assert answer.pipeline == "identity"


async def test_fields_are_read_joined_and_metadata_is_ignored() -> None:
    class Reader(ScriptedJudge):
        async def rule(self, case: Any, questions: Any, sink: Any) -> None:
            self.texts = [candidate.text for candidate in case.candidates]
            await super().rule(case, questions, sink)

    reader = Reader(Oracle.seeded(2, 1))
    message = request(1, "points")
    parts = [document_pb2.Field(name="title", text="A"), document_pb2.Field(name="body", text="B")]
    message.documents.add(id="f", fields=document_pb2.Fields(fields=parts)).metadata.update({"k": 1})
    async with serving(standing(reader)) as stubs:
        await stubs.rerank.Rerank(message)
    assert reader.texts == ["text 0", "A\nB"]


async def test_an_inline_pipeline_takes_whole_numbers_as_floats_do() -> None:
    message = request(8)
    stage = message.inline.stages.add(strategy="sliding-window", model="m", keep=5)
    stage.options.update({"size": 4.0, "stride": 2})
    async with serving(standing(judge(8))) as stubs:
        answer = await stubs.rerank.Rerank(message)
    assert answer.ranking[0].input_index == Oracle.seeded(8, 3).truth[0]
    assert answer.pipeline == ""
    assert answer.ledger.stages[0].candidates_out == 5


async def test_the_trace_tells_every_round_and_every_question() -> None:
    for level, told in ((strategy_pb2.EXPLAIN_LEVEL_ROUNDS, 0), (strategy_pb2.EXPLAIN_LEVEL_QUESTIONS, 1)):
        async with serving(standing(judge(8))) as stubs:
            answer = await stubs.rerank.Rerank(request(8, "window", explain=level))
        rounds = answer.trace.rounds
        assert [one.round for one in rounds] == [1, 2, 3]
        assert [one.question_count for one in rounds] == [1, 1, 1]
        assert [len(one.questions) for one in rounds] == [told] * 3
        assert all(sorted(one.so_far) == list(range(8)) for one in rounds)
        for one in rounds:
            for question in one.questions:
                assert question.kind == strategy_pb2.QUESTION_KIND_ORDER
                assert sorted(question.order.items) == sorted(question.items)
                assert question.model == "scripted"


async def test_a_budget_in_calls_gives_a_partial_order_or_an_error_with_the_ledger() -> None:
    message = request(12, "window")
    message.budget.max_calls = 2
    async with serving(standing(judge(12))) as stubs:
        answer = await stubs.rerank.Rerank(message)
        assert answer.completion == ranking_pb2.COMPLETION_PARTIAL_BUDGET
        assert answer.partial_reason == error_reason_pb2.ERROR_REASON_BUDGET_EXHAUSTED
        assert answer.ledger.total.calls == 2
        assert sorted(ranked.input_index for ranked in answer.ranking) == list(range(12))
        assert ranking_pb2.WARNING_CODE_PARTIAL in {one.code for one in answer.warnings}
        message.budget.on_exhausted = 2
        error = await refused(stubs.rerank.Rerank(message))
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.info.reason == "BUDGET_EXHAUSTED"
    assert error.ledger.total.calls == 2


async def test_the_reason_of_a_partial_answer_is_that_of_its_error() -> None:
    of_a_third_party = BackendDown("short and stout")
    of_a_third_party.reason = "TEAPOT"
    for error, told in (
        (BackendDown("gone"), error_reason_pb2.ERROR_REASON_BACKEND_DOWN),
        (BackendRefused("a bad key"), error_reason_pb2.ERROR_REASON_BACKEND_REFUSED),
        (of_a_third_party, error_reason_pb2.ERROR_REASON_INTERNAL),
    ):
        fails = ScriptedJudge(Oracle.seeded(8, 3), fail_at=dict.fromkeys(range(1, 100), error))
        async with serving(standing(fails)) as stubs:
            answer = await stubs.rerank.Rerank(request(8, "window"))
            whole = await stubs.rerank.Rerank(request(8, "identity"))
        assert answer.completion == ranking_pb2.COMPLETION_PARTIAL_BACKEND
        assert answer.partial_reason == told
        assert not whole.HasField("partial_reason")


# --- StreamRerank -----------------------------------------------------------------------------------------------


async def test_every_snapshot_is_a_permutation_and_the_last_event_is_the_answer() -> None:
    async with serving(standing(judge(12, delay_s=lambda _: 0.02))) as stubs:
        events = [event async for event in stubs.rerank.StreamRerank(Stream(request=request(12, "window", top_n=3)))]
        alone = await stubs.rerank.Rerank(request(12, "window", top_n=3))
    *snapshots, last = events
    assert len(snapshots) == 5
    for number, event in enumerate(snapshots, start=1):
        assert event.WhichOneof("event") == "snapshot"
        assert sorted(event.snapshot.order) == list(range(12))
        assert (event.snapshot.stage, event.snapshot.round) == ("sliding-window", number)
        assert event.snapshot.usage.calls == number - 1
    elapsed = [event.snapshot.elapsed.ToNanoseconds() for event in snapshots]
    assert elapsed == sorted(elapsed)
    assert ids(last.response.ranking) == ids(alone.ranking)
    assert len(last.response.ranking) == 3


async def test_snapshots_keep_their_distance() -> None:
    async with serving(standing(judge(16, delay_s=lambda _: 0.03))) as stubs:
        message = Stream(request=request(16, "window"))
        message.min_interval.FromMilliseconds(70)
        events = [event async for event in stubs.rerank.StreamRerank(message)]
    times = [event.snapshot.elapsed.ToMilliseconds() for event in events[:-1]]
    assert 2 <= len(times) <= 4
    assert all(after - before >= 50 for before, after in itertools.pairwise(times))


async def test_a_slow_reader_gets_the_latest() -> None:
    """A window of HTTP/2 that does not grow is soon full; a reader that stops misses the snapshots in between."""
    n = 4_000
    asks = judge(n, delay_s=lambda _: 0.002)
    made = standing(asks, window=[WINDOW | {"size": 20, "stride": 10}])
    async with serving(made, ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16_384)) as stubs:
        call = stubs.rerank.StreamRerank(Stream(request=request(n, "window", top_n=1)))
        await call.read()
        await until(lambda: len(asks.asked) > 200, within_s=60)
        rounds = []
        while (event := await call.read()) is not grpc.aio.EOF:
            if event.WhichOneof("event") == "snapshot":
                rounds.append(event.snapshot.round)
    assert rounds == sorted(rounds)
    assert max(after - before for before, after in itertools.pairwise(rounds)) > 50


async def test_a_negative_interval_and_no_request() -> None:
    negative = Stream(request=request(4))
    negative.min_interval.FromSeconds(-1)
    async with serving(standing()) as stubs:
        assert (await refused(stubs.rerank.StreamRerank(negative))).fields == ["min_interval"]
        assert (await refused(stubs.rerank.StreamRerank(Stream()))).fields == ["request"]


async def test_an_error_ends_a_stream_with_its_details() -> None:
    failing = judge(8, fail_at={0: BackendDown("no answer", retry_after_s=2)})
    async with serving(standing(failing)) as stubs:
        error = await refused(stubs.rerank.StreamRerank(Stream(request=request(8, "window"))))
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert error.info.reason == "BACKEND_DOWN"
    assert error.ledger.total.calls == 1


# --- BatchRerank ------------------------------------------------------------------------------------------------


async def test_a_batch_answers_every_item_once_as_they_are_done() -> None:
    slow_first = judge(16, delay_s=lambda number: 0.3 if number < 4 else 0.0)
    async with serving(standing(slow_first)) as stubs:
        call = stubs.rerank.BatchRerank()
        await call.write(Batch(item_id="slow", request=request(4, "points")))
        await asyncio.sleep(0.05)
        for i in range(20):
            await call.write(Batch(item_id=f"i{i}", request=request(4, "points", top_n=1)))
        await call.write(Batch(item_id="bad", request=request(4, "nothing")))
        await call.done_writing()
        answers = [answer async for answer in call]
    assert sorted(answer.item_id for answer in answers) == sorted(["slow", "bad", *(f"i{i}" for i in range(20))])
    assert answers[-1].item_id == "slow"
    (bad,) = [answer for answer in answers if answer.item_id == "bad"]
    assert bad.error.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert len(bad.error.details) == 2


async def test_items_that_cannot_be_told_apart_are_refused_one_by_one() -> None:
    async with serving(standing(judge(16, delay_s=lambda _: 0.2))) as stubs:
        call = stubs.rerank.BatchRerank()
        for item_id in ("a", "a", "", "b", "x" * 513):
            await call.write(Batch(item_id=item_id, request=request(2, "points")))
        await call.write(Batch(item_id="none"))
        await call.done_writing()
        answers = [answer async for answer in call]
    outcomes = sorted((answer.item_id[:1], answer.WhichOneof("outcome")) for answer in answers)
    assert outcomes == [
        ("", "error"),
        ("a", "error"),
        ("a", "response"),
        ("b", "response"),
        ("n", "error"),
        ("x", "error"),
    ]
    assert {answer.error.code for answer in answers if answer.HasField("error")} == {INVALID.value[0]}


async def test_an_item_id_may_come_again_once_it_is_answered() -> None:
    async with serving(standing()) as stubs:
        call = stubs.rerank.BatchRerank()
        for _ in range(3):
            await call.write(Batch(item_id="a", request=request(2)))
            assert (await call.read()).WhichOneof("outcome") == "response"
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


async def test_an_empty_batch_ends() -> None:
    async with serving(standing()) as stubs:
        call = stubs.rerank.BatchRerank()
        await call.done_writing()
        assert [answer async for answer in call] == []


async def test_a_batch_reads_no_further_than_its_window() -> None:
    """The server holds a bounded number of items, however many the writer has; HTTP/2 keeps the rest there."""
    running = []

    def asked(_number: int) -> float:
        running.append(made.reranker.running)
        return 0.01

    made = standing(judge(16, delay_s=asked), limits=Limits(batch_in_flight=3))
    async with serving(made) as stubs:

        async def items() -> AsyncIterator[Batch]:
            for i in range(40):
                yield Batch(item_id=f"i{i}", request=request(4, "points"))

        answers = [answer async for answer in stubs.rerank.BatchRerank(items())]
    assert len(answers) == 40
    assert 1 <= max(running) <= 3


async def test_a_writer_is_held_back_while_the_window_is_full() -> None:
    made = standing(judge(16, delay_s=lambda _: 30.0), limits=Limits(batch_in_flight=2))
    async with serving(made) as stubs:
        call = stubs.rerank.BatchRerank()
        big = request(100, "points")
        for document in big.documents:
            document.text = "x" * 20_000
        written = 0

        async def write() -> None:
            nonlocal written
            for i in range(100):
                await call.write(Batch(item_id=f"i{i}", request=big))
                written += 1

        writer = asyncio.create_task(write())
        await asyncio.sleep(1.5)
        assert made.reranker.running == 2
        # What the window of HTTP/2 and the buffers hold is a few items of 2 MB each.
        assert written < 20
        writer.cancel()
        call.cancel()
        await asyncio.sleep(0.2)
        assert made.reranker.running == 0


# --- Estimate ---------------------------------------------------------------------------------------------------


async def test_a_quote_is_what_the_request_then_costs() -> None:
    priced = judge(12, prices=PRICES)
    async with serving(standing(priced)) as stubs:
        quote = await stubs.rerank.Estimate(Estimate(request=request(12, "window")))
        assert priced.asked == []
        spent = (await stubs.rerank.Rerank(request(12, "window"))).ledger.total
    total = quote.total
    assert (total.questions, total.rounds, total.calls) == (spent.questions, spent.rounds, spent.calls)
    assert (total.prompt_tokens, total.output_tokens) == (spent.prompt_tokens, spent.output_tokens)
    assert (total.cost_nano_usd, total.questions_max) == (spent.cost_nano_usd, spent.questions)
    assert total.cost_basis == ledger_pb2.COST_BASIS_PRICE_TABLE
    (stage,) = quote.stages
    assert (stage.strategy, stage.model, stage.candidates_in) == ("sliding-window", "scripted", 12)
    assert stage.usage.questions == total.questions
    assert quote.pipeline == "window"


async def test_a_sketch_stands_for_documents_that_are_not_at_hand() -> None:
    async with serving(standing()) as stubs:
        message = Estimate(request=rerank_service_pb2.RerankRequest(pipeline="window"))
        message.sketch.candidates = 30
        message.sketch.tokens_per_document = 50
        quote = await stubs.rerank.Estimate(message)
    assert quote.total.questions == 14
    assert not quote.total.HasField("cost_nano_usd")
    assert [one.code for one in quote.warnings] == [ranking_pb2.WARNING_CODE_PRICE_UNKNOWN]


@pytest.mark.parametrize(
    ("sketch", "documents", "field"),
    [
        ({"candidates": 5}, 3, "sketch"),
        (None, 0, "request.documents"),
        ({"candidates": 0}, 0, "sketch.candidates"),
        ({"candidates": 10_001}, 0, "sketch.candidates"),
        ({"candidates": 5, "tokens_per_document": -1}, 0, "sketch.tokens_per_document"),
        ({"candidates": 5, "tokens_per_document": 2**31 - 1}, 0, "sketch.tokens_per_document"),
        ({"candidates": 5, "query_tokens": -1}, 0, "sketch.query_tokens"),
    ],
)
async def test_a_quote_refuses(sketch: dict[str, int] | None, documents: int, field: str) -> None:
    message = Estimate(request=request(documents))
    if sketch is not None:
        message.sketch.CopyFrom(rerank_service_pb2.CandidateSketch(**sketch))
    async with serving(standing()) as stubs:
        error = await refused(stubs.rerank.Estimate(message))
    assert (error.code, error.fields) == (INVALID, [field])


# --- Compare ----------------------------------------------------------------------------------------------------


async def test_contenders_side_by_side() -> None:
    contenders = [
        Contender(pipeline="identity"),
        Contender(pipeline="points", label="best"),
        Contender(pipeline="nothing"),
        Contender(),
    ]
    contenders[3].inline.stages.add(strategy="pointwise", model="m")
    contenders.append(contenders[3])
    async with serving(standing(judge(6))) as stubs:
        answer = await stubs.rerank.Compare(Compare(request=request(6, top_n=2), contenders=contenders))
    assert [one.label for one in answer.rankings] == ["identity", "best", "nothing", "pointwise", "pointwise#2"]
    assert answer.rankings[2].error.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert [len(one.response.ranking) for one in answer.rankings] == [2, 2, 0, 2, 2]
    by_pair = {(one.left, one.right): one for one in answer.agreements}
    assert len(by_pair) == 6
    truth = Oracle.seeded(6, 3).truth
    assert by_pair["identity", "best"].kendall_tau == pytest.approx(slow_tau(range(6), truth))
    assert by_pair["best", "pointwise"].kendall_tau == 1.0
    assert [(one.k, one.share) for one in by_pair["best", "pointwise"].overlaps] == [(k, 1.0) for k in (1, 3, 5, 10)]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (Compare(request=request(2), contenders=[]), "contenders"),
        (Compare(request=request(2), contenders=[Contender()] * 17), "contenders"),
        (Compare(request=request(2, "identity"), contenders=[Contender()]), "request.ranker"),
        (Compare(contenders=[Contender()]), "request"),
        (Compare(request=request(2), contenders=[Contender(label="a")] * 2), "contenders[1].label"),
        (Compare(request=request(2), contenders=[Contender(label="x" * 129)]), "contenders[0].label"),
        (Compare(request=request(2), contenders=[Contender()], overlap_at=[1, 0]), "overlap_at[1]"),
        (Compare(request=request(2), contenders=[Contender()], overlap_at=[1] * 17), "overlap_at"),
    ],
)
async def test_a_comparison_refuses(message: Compare, field: str) -> None:
    async with serving(standing()) as stubs:
        error = await refused(stubs.rerank.Compare(message))
    assert (error.code, error.fields) == (INVALID, [field])


async def test_one_document_has_no_tau() -> None:
    async with serving(standing()) as stubs:
        answer = await stubs.rerank.Compare(Compare(request=request(1), contenders=[Contender(), Contender()]))
    assert [one.label for one in answer.rankings] == ["identity", "identity#2"]
    assert not answer.agreements[0].HasField("kendall_tau")
    assert answer.agreements[0].overlaps[0].share == 1.0


def slow_tau(left: Any, right: Any) -> float:
    left, right = list(left), list(right)
    pairs = list(itertools.combinations(range(len(left)), 2))
    alike = sum((left.index(a) < left.index(b)) == (right.index(a) < right.index(b)) for a, b in pairs)
    return (2 * alike - len(pairs)) / len(pairs)


@given(st.permutations(range(9)), st.permutations(range(9)))
def test_tau_counts_pairs(left: list[int], right: list[int]) -> None:
    assert kendall_tau(left, right) == pytest.approx(slow_tau(left, right))


def test_overlaps() -> None:
    assert overlap([1, 2, 3], [3, 2, 1], 2) == 0.5
    assert overlap([1, 2, 3], [3, 2, 1], 99) == 1.0
    assert overlap([], [], 3) == 1.0
    assert kendall_tau([], []) is None
