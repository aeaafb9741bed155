"""Grades by a cross-encoder through the whole reranker: scores, long documents, memory, and the bill."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_server.accounting.prices import Prices
from podium_server.accounting.usage import CostBasis
from podium_server.backends.cross_encoders.cross_encoder import Capacity
from podium_server.backends.cross_encoders.score_cache import _ENTRY_BYTES, Entry, ScoreCache, keys_of
from podium_server.backends.cross_encoders.seat import CrossEncoderSeat
from podium_server.backends.worker import Worker
from podium_server.errors import BackendDown, DeadlineExceeded, FailedPrecondition, Overloaded
from podium_server.judges.case import Candidate, Case, Side, Truncation
from podium_server.judges.cross_encoder import CrossEncoderJudge, sigmoid
from podium_server.judges.judge import Ruling, ScoreKind
from podium_server.judges.passages import Reading, passages, shortened, windows
from podium_server.ranking.request import Budget, Completion, Outcome, RankRequest
from podium_strategies.plan import Grade
from tests.cross_encoders.toy import ToyCrossEncoder, toy_score
from tests.ranking.scripted import pipeline, reranker

QUERY = "a question"
POINTWISE = {"strategy": "pointwise", "model": "m"}
PRICES = Prices(prompt_usd_per_mtok=1.0)


@asynccontextmanager
async def seated(toy: ToyCrossEncoder, **more: Any) -> AsyncIterator[CrossEncoderSeat]:
    settings = {"wait_s_max": 1e6, "pairs_max": 50_000, "cache": ScoreCache(1 << 20), **more}
    seat = CrossEncoderSeat("toy", lambda: toy, Worker("toy", waiting_max=1_000), **settings)
    try:
        yield seat
    finally:
        toy.let.set()
        await asyncio.to_thread(seat.close)


def asked(texts: Sequence[str], **more: Any) -> RankRequest:
    return RankRequest(QUERY, tuple(Candidate(str(i), text) for i, text in enumerate(texts)), **more)


async def ranked(judge: CrossEncoderJudge, texts: Sequence[str], **more: Any) -> Outcome:
    return await reranker(pipeline({"m": judge}, POINTWISE)).rerank(asked(texts, **more))


class Collected:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.rulings: dict[int, Ruling] = {}
        self.spent_in_vain: list[Any] = []

    def ruled(self, index: int, ruling: Ruling, *, elapsed_s: float) -> None:
        assert index not in self.rulings
        assert elapsed_s >= 0
        self.rulings[index] = ruling

    def spent(self, usage: Any) -> None:
        self.spent_in_vain.append(usage)

    @property
    def pairs(self) -> int:
        usages = [ruling.usage for ruling in self.rulings.values()] + self.spent_in_vain
        return sum(usage.pairs for usage in usages)


# --- scores -----------------------------------------------------------------------------------------------------


TEXTS = st.lists(st.integers(0, 90).map(lambda n: " ".join(f"w{i % 7}" for i in range(n))), min_size=1, max_size=20)


@settings(deadline=None, max_examples=25)
@given(st.lists(TEXTS, min_size=1, max_size=6), st.sets(st.integers(0, 5)), st.integers(0, 2**32))
def test_scores_are_those_of_one_pair_at_a_time(requests: list[list[str]], leaving: set[int], seed: int) -> None:
    chance = random.Random(seed)

    async def one(judge: CrossEncoderJudge, number: int, texts: list[str]) -> None:
        sink = Collected()
        case = Case(QUERY, [Candidate(str(i), text) for i, text in enumerate(texts)])
        questions = [Grade(item) for item in range(len(texts))]
        task = asyncio.create_task(judge.rule(case, questions, sink))
        if number in leaving:
            await asyncio.sleep(chance.random() * 0.003)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if number not in leaving:
            assert len(sink.rulings) == len(texts)
        for index, ruling in sink.rulings.items():
            assert ruling.answer == toy_score(QUERY, " ".join(texts[index].split()[:59]))

    async def all_of_them() -> None:
        toy = ToyCrossEncoder(capacity=Capacity(2, 128, 8, 1e6))
        async with seated(toy) as seat:
            judge = CrossEncoderJudge(seat)
            await asyncio.gather(*(one(judge, i, texts) for i, texts in enumerate(requests)))
            batcher = await seat.batcher()
            assert batcher.state().requests == 0

    asyncio.run(all_of_them())


async def test_the_order_the_kind_and_the_bill() -> None:
    toy = ToyCrossEncoder()
    texts = [f"text {i}" for i in range(20)]
    async with seated(toy) as seat:
        outcome = await ranked(CrossEncoderJudge(seat, prices=PRICES), texts)
    scores = [toy_score(QUERY, text) for text in texts]
    assert list(outcome.scores) == scores
    assert outcome.order == tuple(sorted(range(20), key=lambda i: -scores[i]))
    assert outcome.score_kind is ScoreKind.LOGIT
    total = outcome.ledger.total()
    tokens = sum(pair.tokens for batch in toy.batches for pair in batch)
    assert (total.calls, total.pairs, total.prompt_tokens, total.cache_hits) == (20, 20, tokens, 0)
    assert total.cost_nano_usd == tokens * 1_000
    assert total.backend_s > 0
    assert total.tokenize_s > 0
    (account,) = outcome.ledger
    assert (account.model, account.questions) == ("toy", 20)


async def test_a_sigmoid_is_applied_once_and_never_twice() -> None:
    for scale in ("logit", "probability"):
        toy = ToyCrossEncoder(scale=scale)  # type: ignore[arg-type]
        async with seated(toy) as seat:
            outcome = await ranked(CrossEncoderJudge(seat, score="probability"), ["x"])
        raw = toy_score(QUERY, "x")
        assert outcome.score_kind is ScoreKind.PROBABILITY
        assert outcome.scores[0] == (sigmoid(raw) if scale == "logit" else raw)
    async with seated(ToyCrossEncoder(scale="probability")) as seat:
        assert (await ranked(CrossEncoderJudge(seat), ["x"])).score_kind is ScoreKind.PROBABILITY
        with pytest.raises(FailedPrecondition, match="cannot be taken back"):
            await ranked(CrossEncoderJudge(seat, score="logit"), ["x"])


@given(st.floats(-1e6, 1e6))
def test_the_sigmoid_is_one(logit: float) -> None:
    assert 0 <= sigmoid(logit) <= 1
    assert math.isclose(sigmoid(logit) + sigmoid(-logit), 1)


async def test_instructions_reach_the_model() -> None:
    async with seated(ToyCrossEncoder()) as seat:
        outcome = await ranked(CrossEncoderJudge(seat), ["x"], instruction="be brief")
        assert outcome.scores[0] == toy_score(QUERY, "x", "be brief")
        assert (await ranked(CrossEncoderJudge(seat), ["x"])).scores[0] == toy_score(QUERY, "x")


@pytest.mark.parametrize("strategy", ["fusion", "cascade"])
async def test_inside_a_fusion_and_behind_another_stage(strategy: str) -> None:
    texts = [f"text {i}" for i in range(12)]
    best = max(range(12), key=lambda i: toy_score(QUERY, texts[i]))
    stages: list[dict[str, Any]] = [{"strategy": "first-stage", "keep": 12}, {**POINTWISE, "keep": 5}]
    if strategy == "fusion":
        stages = [{"strategy": "fusion", "method": "z-score", "of": [POINTWISE, {**POINTWISE, "name": "again"}]}]
    async with seated(ToyCrossEncoder()) as seat:
        outcome = await reranker(pipeline({"m": CrossEncoderJudge(seat)}, *stages)).rerank(asked(texts))
    assert outcome.order[0] == best
    assert outcome.completion is Completion.COMPLETE


# --- long documents ---------------------------------------------------------------------------------------------


LONG = " ".join(f"w{i}" for i in range(150))


async def test_a_long_document_is_cut_and_counted() -> None:
    toy = ToyCrossEncoder()
    async with seated(toy) as seat:
        outcome = await ranked(CrossEncoderJudge(seat), [LONG, "short"])
    assert outcome.scores[0] == toy_score(QUERY, " ".join(LONG.split()[:59]))
    assert outcome.ledger.total().truncated_documents == 1
    assert "TRUNCATED" in [warning.code for warning in outcome.warnings]


@pytest.mark.parametrize("how", ["best-passage", "mean-of-top-2"])
async def test_passages_cover_a_long_document(how: Any) -> None:
    toy = ToyCrossEncoder()
    async with seated(toy) as seat:
        reading = Reading(how, passage_tokens=50, overlap_tokens=10)
        outcome = await ranked(CrossEncoderJudge(seat, reading), [LONG, "short"])
        expected = [
            toy_score(QUERY, " ".join(LONG.split()[a:b])) for a, b in ((0, 50), (40, 90), (80, 130), (100, 150))
        ]
    best, second = sorted(expected, reverse=True)[:2]
    assert outcome.scores[0] == pytest.approx(best if how == "best-passage" else (best + second) / 2)
    total = outcome.ledger.total()
    assert (total.pairs, total.calls, total.truncated_documents) == (5, 5, 0)


async def test_passages_beyond_the_limit_are_counted_as_cut() -> None:
    async with seated(ToyCrossEncoder()) as seat:
        judge = CrossEncoderJudge(seat, Reading("best-passage", passage_tokens=50, overlap_tokens=10, passages_max=2))
        outcome = await ranked(judge, [LONG])
    assert outcome.ledger.total().truncated_documents == 1
    assert outcome.ledger.total().pairs == 2


async def test_a_query_that_fills_the_window_is_read_as_far_as_it_goes() -> None:
    async with seated(ToyCrossEncoder()) as seat:
        request = RankRequest("q " * 60, (Candidate("0", LONG), Candidate("1", "short")))
        judge = CrossEncoderJudge(seat, Reading("best-passage"))
        outcome = await reranker(pipeline({"m": judge}, POINTWISE)).rerank(request)
    assert outcome.completion is Completion.COMPLETE
    assert outcome.ledger.total().truncated_documents >= 1


@pytest.mark.parametrize(
    ("truncation", "read"),
    [
        (Truncation(2, Side.END), "w0 w1"),
        (Truncation(2, Side.START), "w148 w149"),
        (Truncation(None, Side.START), " ".join(LONG.split()[-59:])),
        (Truncation(1_000, Side.END), " ".join(LONG.split()[:59])),
    ],
)
async def test_documents_are_cut_as_the_request_wants(truncation: Truncation, read: str) -> None:
    async with seated(ToyCrossEncoder()) as seat:
        outcome = await ranked(CrossEncoderJudge(seat), [LONG], truncation=truncation)
    assert outcome.scores[0] == toy_score(QUERY, read)
    assert outcome.ledger.total().truncated_documents == 1


@given(st.integers(0, 500), st.integers(1, 60), st.integers(0, 59))
def test_windows_cover_everything_and_overlap(n: int, size: int, overlap: int) -> None:
    overlap = min(overlap, size - 1)
    found = windows(n, size, overlap)
    assert found[0][0] == 0
    assert found[-1][1] == n
    assert all(stop - start == min(size, n) for start, stop in found)
    assert all(later[0] > start and stop - later[0] >= overlap for (start, stop), later in pairwise(found))


@given(st.text(alphabet="ab \n", max_size=300), st.integers(1, 20), st.integers(1, 5))
def test_passages_hold_every_token_up_to_the_limit(text: str, size: int, at_most: int) -> None:
    spans = ToyCrossEncoder().spans
    found, cut = passages(text, size, size // 3, at_most, spans)
    words = text.split()
    seen = [passage.split() for passage in found]
    assert len(found) <= at_most
    assert all(len(part) <= size for part in seen)
    assert cut == (len(words) > size + (at_most - 1) * (size - size // 3))
    assert seen[0] == words[:size]
    assert cut or not words or seen[-1][-1] == words[-1]


@given(st.text(max_size=300), st.integers(0, 20), st.sampled_from(Side))
def test_a_shortened_text_is_a_part_of_it(text: str, most: int, side: Side) -> None:
    spans = ToyCrossEncoder().spans
    short = shortened(text, most, side, spans)
    assert text.startswith(short) if side is Side.END else text.endswith(short)
    assert len(spans(short)) == min(most, len(spans(text)))


# --- memory -----------------------------------------------------------------------------------------------------


async def test_what_was_scored_is_remembered_and_twins_are_scored_once() -> None:
    toy = ToyCrossEncoder()
    async with seated(toy) as seat:
        judge = CrossEncoderJudge(seat, prices=PRICES)
        first = await ranked(judge, ["one", "two", "one", LONG])
        assert (first.ledger.total().pairs, first.ledger.total().cache_hits) == (3, 1)
        assert first.scores[0] == first.scores[2]
        tokenized = len(toy.tokenized)
        again = await ranked(judge, [LONG, "two", "one"])
        assert list(again.scores) == [first.scores[3], *first.scores[1::-1]]
        total = again.ledger.total()
        assert (total.pairs, total.cache_hits, total.cost_nano_usd) == (0, 3, 0)
        assert total.truncated_documents == 1, "what is remembered was cut all the same"
        assert len(toy.tokenized) == tokenized, "and costs no tokens either"
        other = await ranked(CrossEncoderJudge(seat, Reading("best-passage", 20, 5)), [LONG])
        assert other.ledger.total().cache_hits == 0, "read otherwise, it has another score"
        assert seat.cache.stats().hits == 3


@given(st.lists(st.integers(0, 20), max_size=100), st.integers(0, 10))
def test_the_memory_keeps_what_was_used_last_within_its_bound(used: list[int], room: int) -> None:
    cache = ScoreCache(room * _ENTRY_BYTES)
    kept: list[int] = []
    for number in used:
        key = number.to_bytes(16, "big")
        found = cache.get([key])
        assert (key in found) == (number in kept)
        if key in found:
            assert found[key] == Entry(float(number), False)
            kept.remove(number)
        else:
            cache.put([(key, Entry(float(number), False))])
        kept = [*kept, number][-room:] if room else []
    assert cache.stats().size_bytes <= room * _ENTRY_BYTES
    assert cache.stats().hits + cache.stats().misses == len(used)


@given(st.lists(st.text(max_size=4), min_size=2, max_size=2), st.text(max_size=4))
def test_keys_tell_all_that_decides_apart(said: list[str], text: str) -> None:
    [key] = keys_of(said, [text])
    assert len(key) == 16
    for other in ([said[0] + said[1], ""], ["", *said], [said[1], said[0]]):
        if other != said:
            assert keys_of(other, [text]) != [key]
    assert keys_of(said, [text + "x"]) != [key]


# --- ends -------------------------------------------------------------------------------------------------------


async def test_a_soft_deadline_keeps_what_was_scored_and_bills_what_was_at_work() -> None:
    toy = ToyCrossEncoder(capacity=Capacity(1, 64, 4, 1e6))
    async with seated(toy) as seat:
        batcher = await seat.batcher()

        async def hold_after_two_batches() -> None:
            while len(toy.batches) < 2:  # noqa: ASYNC110  # nothing tells of it
                await asyncio.sleep(0)
            toy.let.clear()

        holding = asyncio.create_task(hold_after_two_batches())
        slow = toy.score
        toy.score = lambda batch: (time.sleep(0.02), slow(batch))[1]  # type: ignore[method-assign]
        outcome = await ranked(
            CrossEncoderJudge(seat), [f"t {i}" for i in range(40)], budget=Budget(soft_deadline_s=0.5)
        )
        holding.cancel()
        assert outcome.completion is Completion.PARTIAL_DEADLINE
        total = outcome.ledger.total()
        begun = sum(map(len, toy.batches))
        assert total.pairs == begun < 40
        assert batcher.state().pairs == 0


async def test_a_deadline_that_has_passed_costs_nothing() -> None:
    toy = ToyCrossEncoder()
    async with seated(toy) as seat:
        await seat.batcher()
        sink = Collected()
        case = Case(QUERY, [Candidate("0", "x")], deadline_at=time.monotonic() - 1)
        with pytest.raises(DeadlineExceeded):
            await CrossEncoderJudge(seat).rule(case, [Grade(0)], sink)
    assert not toy.batches
    assert not toy.tokenized
    assert sink.pairs == 0


async def test_a_failure_bills_what_was_scored() -> None:
    toy = ToyCrossEncoder(capacity=Capacity(1, 20, 1, 1e6))
    async with seated(toy) as seat:
        sink = Collected()
        case = Case(QUERY, [Candidate("0", "much longer text"), Candidate("1", "explode"), Candidate("2", "x")])
        with pytest.raises(BackendDown, match="exploded"):
            await CrossEncoderJudge(seat).rule(case, [Grade(0), Grade(1), Grade(2)], sink)
    assert set(sink.rulings) == {0}
    assert sink.pairs == 1


async def test_an_overloaded_model_refuses_before_it_makes_tokens() -> None:
    toy = ToyCrossEncoder(capacity=Capacity(1, 64, 8, 10.0))
    async with seated(toy, wait_s_max=0.5) as seat:
        toy.let.clear()
        judge = CrossEncoderJudge(seat)
        first = asyncio.create_task(ranked(judge, [f"a {i}" for i in range(30)]))
        batcher = await seat.batcher()
        while not batcher.state().pairs:  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.001)
        tokenized = len(toy.tokenized)
        with pytest.raises(Overloaded) as caught:
            await ranked(judge, ["b"])
        assert caught.value.retry_after_s > 0
        assert len(toy.tokenized) == tokenized
        toy.let.set()
        assert (await first).completion is Completion.COMPLETE
        assert (await ranked(judge, ["b"])).completion is Completion.COMPLETE


async def test_an_estimate_loads_nothing_and_is_about_right() -> None:
    toy = ToyCrossEncoder()
    texts = ["four words of text"] * 3 + ["other words in here"]
    case = Case("a q", [Candidate(str(i), text) for i, text in enumerate(texts)])
    questions = [Grade(item) for item in range(4)]
    async with seated(toy, max_tokens=64) as seat:
        judge = CrossEncoderJudge(seat, prices=Prices(compute_usd_per_hour=1.0))
        before = judge.estimate(case, questions)
        assert seat.loaded is None
        assert (before.pairs, before.calls) == (4, 4)
        assert before.cost_nano_usd is None, "its time is not known before it is loaded"
        await seat.batcher()
        after = judge.estimate(case, questions)
        assert after.backend_s > 0
        assert (after.cost_basis, after.cost_nano_usd is not None) == (CostBasis.COMPUTE_TIME, True)
        assert judge.estimate(case, []).calls == 0
        # A window of 64 tokens leaves no room for the usual overlap of 64, and such a query none for passages.
        for query, reading in (
            ("a q", Reading("best-passage", 40, 10)),
            ("a q", Reading("best-passage")),
            ("a question of letters " * 20, Reading("best-passage")),
        ):
            long = Case(query, [Candidate("0", LONG)])
            whole = CrossEncoderJudge(seat, reading).estimate(long, [Grade(0)])
            sink = Collected()
            await CrossEncoderJudge(seat, reading).rule(long, [Grade(0)], sink)
            assert abs(whole.pairs - sink.pairs) <= 2


async def test_time_has_a_price_after_a_model_was_unloaded() -> None:
    """Else a tenant with a quota of money is refused, and nobody loads the model again."""
    prices = Prices(compute_usd_per_hour=1.0)
    case, questions = Case(query=QUERY, candidates=(Candidate("a", "b c"),)), [Grade(0)]
    async with seated(ToyCrossEncoder()) as seat:
        judge = CrossEncoderJudge(seat, prices=prices)
        assert judge.estimate(case, questions).cost_nano_usd is None
        await ranked(judge, ["b c"])
        loaded = judge.estimate(case, questions)
        await asyncio.to_thread(seat.unload)
        assert judge.estimate(case, questions) == loaded
        assert loaded.cost_nano_usd
