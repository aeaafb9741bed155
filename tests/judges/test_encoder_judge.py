"""Cosine and late interaction through the whole reranker, with an encoder that is easy to compute by hand."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from podium_server.backends.encoders.encoder import Encoded
from podium_server.backends.worker import Worker
from podium_server.errors import FailedPrecondition, Overloaded
from podium_server.judges.case import Candidate, Side, Truncation
from podium_server.judges.encoder import EncoderJudge, EncoderSeat
from podium_server.judges.judge import ScoreKind
from podium_server.ranking.request import Budget, Completion, RankRequest
from tests.judges.toy_encoder import ToyEncoder
from tests.ranking.scripted import pipeline, reranker

TEXTS = ["the cat sat", "a dog ran far", "cat and dog", "rain in spain", "cat cat cat"]
QUERY = "cat dog"


def seat(encoder: ToyEncoder, waiting_max: int = 10) -> EncoderSeat:
    return EncoderSeat(
        "toy", lambda: encoder, Worker("q", waiting_max=waiting_max), Worker("d", waiting_max=waiting_max)
    )


def asked(texts: Sequence[str] = TEXTS, **more: object) -> RankRequest:
    return RankRequest(QUERY, tuple(Candidate(str(i), text) for i, text in enumerate(texts)), **more)  # type: ignore[arg-type]


POINTWISE = {"strategy": "pointwise", "model": "m"}
FUSED = {
    "strategy": "fusion",
    "method": "z-score",
    "of": [
        {"strategy": "pointwise", "model": "late", "name": "late"},
        {"strategy": "pointwise", "model": "m", "name": "cosine"},
    ],
}


async def test_cosine_and_maxsim_are_what_they_say() -> None:
    toy = ToyEncoder()
    documents = toy.encode_documents(TEXTS, token_vectors=True)
    query = toy.encode_queries([QUERY], token_vectors=True)
    assert documents.token_vectors is not None
    assert query.token_vectors is not None
    cosine = await reranker(pipeline({"m": EncoderJudge(seat(toy), False)}, POINTWISE)).rerank(asked())
    assert np.allclose(cosine.scores, documents.vectors @ query.vectors[0], atol=1e-6)
    assert cosine.score_kind is ScoreKind.COSINE
    late = await reranker(pipeline({"m": EncoderJudge(seat(toy), True)}, POINTWISE)).rerank(asked())
    expected = [float((query.token_vectors[0] @ rows.T).max(axis=1).mean()) for rows in documents.token_vectors]
    assert np.allclose(late.scores, expected, atol=1e-6)
    assert late.score_kind is ScoreKind.MAXSIM


async def test_voices_of_one_request_share_one_pass_and_the_ledger_says_so() -> None:
    toy = ToyEncoder()
    shared = seat(toy)
    judges = {"late": EncoderJudge(shared, True), "m": EncoderJudge(shared, False, with_token_vectors=True)}
    outcome = await reranker(pipeline(judges, FUSED)).rerank(asked())
    encoded = sorted(text for texts in toy.passes for text in texts)
    assert encoded == sorted([*TEXTS, QUERY])
    assert outcome.ledger.total().cache_hits == len(TEXTS)
    assert outcome.ledger.total().pairs == 2 * len(TEXTS)
    assert outcome.score_kind is ScoreKind.FUSED


async def test_late_interaction_needs_token_vectors() -> None:
    toy = ToyEncoder()
    toy.has_token_vectors = False
    with pytest.raises(FailedPrecondition, match="cosine"):
        await reranker(pipeline({"m": EncoderJudge(seat(toy), True)}, POINTWISE)).rerank(asked())


async def test_likeness_spreads_the_list() -> None:
    mmr = {"strategy": "mmr", "model": "m", "balance": 0.3, "k": 3}
    outcome = await reranker(pipeline({"m": EncoderJudge(seat(ToyEncoder()), False)}, mmr)).rerank(
        asked(["cat dog", "cat dog", "cat dog", "cat rain", "dog ran"])
    )
    assert len(set(outcome.order[:3]) & {0, 1, 2}) == 1, "twins do not stand together at the top"


class SlowEncoder(ToyEncoder):
    """Encodes documents only when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Event()

    def encode_documents(self, texts: Sequence[str], *, token_vectors: bool = False) -> Encoded:
        self.let.wait(10)
        return super().encode_documents(texts, token_vectors=token_vectors)


async def test_a_soft_deadline_does_not_wait_for_the_encoder() -> None:
    slow = SlowEncoder()
    try:
        outcome = await reranker(pipeline({"m": EncoderJudge(seat(slow), False)}, POINTWISE)).rerank(
            asked(budget=Budget(soft_deadline_s=0.05))
        )
        assert outcome.completion is Completion.PARTIAL_DEADLINE
        assert outcome.order == tuple(range(len(TEXTS)))
    finally:
        slow.let.set()


async def test_a_full_queue_refuses_at_once() -> None:
    slow = SlowEncoder()
    place = seat(slow, waiting_max=1)
    ranker = reranker(pipeline({"m": EncoderJudge(place, False)}, POINTWISE))
    await place.encoder()
    first = asyncio.create_task(ranker.rerank(asked()))
    while place.documents.waiting < 1:  # noqa: ASYNC110  # nothing tells of it
        await asyncio.sleep(0.001)
    with pytest.raises(Overloaded, match="encoder_queue"):
        await ranker.rerank(asked())
    slow.let.set()
    assert (await first).completion is Completion.COMPLETE


@pytest.mark.parametrize(("side", "read"), [(Side.END, "one two"), (Side.START, "four five")])
async def test_documents_are_cut_as_the_request_wants_and_counted(side: Side, read: str) -> None:
    class Spanning(ToyEncoder):
        def token_spans(self, text: str) -> list[tuple[int, int]]:
            return [found.span() for found in re.finditer(r"\S+", text)]

    toy = Spanning()
    outcome = await reranker(pipeline({"m": EncoderJudge(seat(toy), False)}, POINTWISE)).rerank(
        asked(["one two three four five", "short"], truncation=Truncation(2, side))
    )
    assert sorted(toy.passes[-1]) == sorted([read, "short"])
    assert outcome.ledger.total().truncated_documents == 1
    assert "TRUNCATED" in [warning.code for warning in outcome.warnings]


@pytest.mark.parametrize("side", Side)
async def test_of_a_long_document_no_more_is_read_than_is_wanted(side: Side) -> None:
    read: list[int] = []

    class Spanning(ToyEncoder):
        def token_spans(self, text: str) -> list[tuple[int, int]]:
            read.append(len(text))
            return [found.span() for found in re.finditer(r"\S+", text)]

    toy = Spanning()
    await reranker(pipeline({"m": EncoderJudge(seat(toy), False)}, POINTWISE)).rerank(
        asked(["word " * 50_000], truncation=Truncation(2, side))
    )
    assert [text.split() for text in toy.passes[-1]] == [["word", "word"]]
    assert max(read) < 1_000


async def test_a_voice_that_needs_no_token_vectors_does_not_mislead_one_that_does() -> None:
    toy = ToyEncoder()
    shared = seat(toy)
    judges = {"late": EncoderJudge(shared, True), "m": EncoderJudge(shared, False)}
    voices = list(reversed(FUSED["of"]))
    outcome = await reranker(pipeline(judges, {**FUSED, "of": voices})).rerank(asked())
    assert outcome.completion is Completion.COMPLETE


async def test_a_soft_deadline_keeps_the_slices_that_were_encoded() -> None:
    class Slow(ToyEncoder):
        def encode_documents(self, texts: Sequence[str], *, token_vectors: bool = False) -> Encoded:
            if len(self.passes) > 1:  # the query and the first slice come at once
                never.wait(10)
            return super().encode_documents(texts, token_vectors=token_vectors)

    never = threading.Event()
    texts = [f"dog {i}" for i in range(64)] + ["cat dog and many more words so that it comes last"] * 64
    texts[60] = QUERY
    try:
        outcome = await reranker(pipeline({"m": EncoderJudge(seat(Slow()), False)}, POINTWISE)).rerank(
            asked(texts, budget=Budget(soft_deadline_s=0.3))
        )
    finally:
        never.set()
    assert outcome.completion is Completion.PARTIAL_DEADLINE
    assert outcome.order[0] == 60, "the best of the first slice, which was graded"
    total = outcome.ledger.total()
    assert (total.pairs, total.calls) == (64, 3), "the slice under way is on the bill"
