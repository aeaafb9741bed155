"""A real model behind a real server: the scores of one pair at a time, whoever shares a batch."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from podium.v1 import catalog_service_pb2, document_pb2, ranking_pb2, rerank_service_pb2
from podium_server import config
from podium_server.compose import Podium
from tests.cross_encoders import numpy_models
from tests.wire.serving import serving

SAID = """
[limits]
cross_encoder_wait_s = 600.0
[models.cross]
backend = "cross-encoder"
model = "{folder}"
engine = "openvino"
precision = "f32"
threads = 2
[pipelines.cross]
stages = [{{ strategy = "pointwise", model = "cross" }}]
[pipelines.both]
stages = [{{ strategy = "first-stage", keep = 8 }},
          {{ strategy = "pointwise", model = "cross", score = "probability", keep = 3 }}]
"""

# Batches change the order of sums; the scores spread by far more.
TOLERANCE = 1e-4


def asked(query: str, texts: list[str], pipeline: str) -> rerank_service_pb2.RerankRequest:
    documents = [document_pb2.Document(id=f"d{i}", text=text) for i, text in enumerate(texts)]
    return rerank_service_pb2.RerankRequest(query=query, documents=documents, pipeline=pipeline)


async def test_requests_side_by_side_get_the_scores_of_one_pair_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PODIUM_CACHE", str(tmp_path / "cache"))
    folder = numpy_models.cross_encoder(tmp_path / "model")
    path = tmp_path / "podium.toml"
    path.write_text(SAID.format(folder=folder), "utf-8")
    words = numpy_models.WORDS
    queries = ["how long do fleas live", "paris is the capital of france", "a year and a city"]
    texts = [" ".join(words[(i * j) % len(words)] for j in range(1, 3 + i * 7 % 40)) for i in range(30)]
    podium = Podium(config.load(path), data_dir=None)
    try:
        await podium.start()
        encoder = (await podium.models_by_name.cross_encoder("cross").batcher()).encoder
        async with serving(podium) as stubs:
            answers = await asyncio.gather(*(stubs.rerank.Rerank(asked(query, texts, "cross")) for query in queries))
            for query, answer in zip(queries, answers, strict=True):
                alone = [float(encoder.score(encoder.pairs(query, [text]))[0]) for text in texts]
                scores = {ranked.input_index: ranked.score for ranked in answer.ranking}
                assert [scores[i] for i in range(30)] == pytest.approx(alone, abs=TOLERANCE)
                assert {ranked.score_kind for ranked in answer.ranking} == {ranking_pb2.SCORE_KIND_LOGIT}
                (stage,) = answer.ledger.stages
                assert (stage.model, stage.revision, stage.usage.pairs) == ("cross", encoder.revision, 30)
                assert stage.usage.backend_time.ToNanoseconds() > 0
            again = await stubs.rerank.Rerank(asked(queries[0], texts, "both"))
            assert again.ledger.total.cache_hits == 8
            assert again.ranking[0].score_kind == ranking_pb2.SCORE_KIND_PROBABILITY
            models = (await stubs.catalog.ListModels(catalog_service_pb2.ListModelsRequest())).models
            (card,) = [model for model in models if model.name == "cross"]
            assert (card.ready, list(card.capabilities)) == (True, [catalog_service_pb2.MODEL_CAPABILITY_GRADE])
    finally:
        await podium.aclose()
