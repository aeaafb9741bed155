"""Batched, sorted, mixed with others and remembered, a pair has the score that it has alone: by the real backend."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_server.backends.cross_encoders.cross_encoder import Capacity
from podium_server.backends.cross_encoders.openvino import OpenVinoCrossEncoder
from podium_server.backends.cross_encoders.score_cache import ScoreCache
from podium_server.backends.cross_encoders.seat import CrossEncoderSeat
from podium_server.backends.openvino.runtime import Precision
from podium_server.backends.worker import Worker
from podium_server.judges.case import Candidate
from podium_server.judges.cross_encoder import CrossEncoderJudge
from podium_server.ranking.request import RankRequest
from tests.cross_encoders import numpy_models as tiny
from tests.cross_encoders.test_openvino import PRECISIONS, TOLERANCE
from tests.ranking.scripted import pipeline, reranker

# So small that requests of a few pairs share batches, and that long pairs are a batch alone.
CAPACITY = Capacity(lanes=2, padded_tokens=128, pairs=6, tokens_per_s=1e6)
LONGEST_PAUSE_S = 0.003

# Of up to 130 tokens and more, of which the model sees 96.
texts = st.lists(st.sampled_from([*tiny.WORDS, "Zürich", "東京"]), max_size=130).map(" ".join)


class Served(NamedTuple):
    """One model, alone and behind its queue."""

    alone: OpenVinoCrossEncoder
    seat: CrossEncoderSeat


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Precision, Served]]:
    root = tmp_path_factory.mktemp("same-scores")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PODIUM_CACHE", str(root / "cache"))
        folder = tiny.cross_encoder(root / "bert")
        made = {precision: _served(folder, precision) for precision in PRECISIONS}
    yield made
    for one in made.values():
        one.seat.close()


def _served(folder: Path, precision: Precision) -> Served:
    def model(threads: int) -> OpenVinoCrossEncoder:
        return OpenVinoCrossEncoder(str(folder), precision=precision, threads=threads, capacity=CAPACITY)

    seat = CrossEncoderSeat(
        name=precision,
        load=lambda: model(2),
        tokenizer=Worker(f"{precision}-tokens", waiting_max=1_000),
        wait_s_max=1e6,
        pairs_max=50_000,
        cache=ScoreCache(0),
    )
    seat.batcher_now()
    return Served(model(1), seat)


class Asked(NamedTuple):
    """A request: a query, documents by their place in what all requests choose from, and whether its caller leaves."""

    query: str
    places: Sequence[int]
    leaves: bool


def asked(documents: int) -> st.SearchStrategy[list[Asked]]:
    # Few queries and few documents, so that pairs come again: within a request, side by side, and later.
    queries = st.sampled_from(["how long do fleas live", "paris"])
    places = st.lists(st.integers(0, documents - 1), min_size=1, max_size=20)
    leaving = st.sampled_from([False, False, False, True])
    return st.lists(st.builds(Asked, queries, places, leaving), min_size=1, max_size=6)


@pytest.mark.parametrize("precision", PRECISIONS)
@settings(max_examples=15, deadline=None)
@given(
    documents=st.lists(texts, min_size=1, max_size=12),
    cache_bytes=st.sampled_from([0, 1_000, 1 << 20]),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_a_pair_has_one_score_whatever_it_is_batched_with_and_whether_it_is_remembered(
    served: dict[Precision, Served],
    precision: Precision,
    documents: list[str],
    cache_bytes: int,
    seed: int,
    data: st.DataObject,
) -> None:
    alone, seat = served[precision]
    seat.cache = ScoreCache(cache_bytes)
    ranker = reranker(pipeline({"m": CrossEncoderJudge(seat)}, {"strategy": "pointwise", "model": "m"}))
    requests = data.draw(asked(len(documents)))
    chance = random.Random(seed)

    async def ask(one: Asked) -> tuple[float | None, ...] | None:
        await asyncio.sleep(chance.random() * LONGEST_PAUSE_S)
        candidates = tuple(Candidate(str(i), documents[place]) for i, place in enumerate(one.places))
        task = asyncio.create_task(ranker.rerank(RankRequest(one.query, candidates)))
        if one.leaves:
            await asyncio.sleep(chance.random() * LONGEST_PAUSE_S)
            task.cancel()
        try:
            return (await task).scores
        except asyncio.CancelledError:
            return None

    async def all_of_them() -> list[tuple[float | None, ...] | None]:
        return list(await asyncio.gather(*map(ask, requests)))

    expected = {
        (query, place): float(alone.score(alone.pairs(query, [documents[place]]))[0])
        for query in {one.query for one in requests}
        for place in {place for one in requests for place in one.places}
    }
    # The second time in another interleaving, and where there is a memory for it with what the first has left.
    for _ in range(2):
        for one, scores in zip(requests, asyncio.run(all_of_them()), strict=True):
            assert scores is not None or one.leaves
            for place, score in zip(one.places, scores or (), strict=False):
                assert score == pytest.approx(
                    expected[one.query, place], abs=TOLERANCE[precision], rel=TOLERANCE[precision]
                )
