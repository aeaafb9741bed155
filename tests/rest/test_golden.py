"""One answer of each dialect, field by field, as its clients read it."""

from __future__ import annotations

from typing import Any

import pytest

from podium_server.judges.judge import ScoreKind
from tests.rest.serving import Grading, resting, truth
from tests.wire.serving import standing

DOCUMENTS = ["a", "b", "c"]
ASKED = {"model": "points", "query": "q", "documents": DOCUMENTS, "top_n": 2}
META = {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": 30, "output_tokens": 0}}
USAGE = {"prompt_tokens": 30, "total_tokens": 30}

GOLDEN: dict[str, tuple[Any, Any]] = {
    "/cohere/v2/rerank": (
        ASKED,
        {
            "id": "…",
            "results": [{"index": 2, "relevance_score": 1.0}, {"index": 0, "relevance_score": 0.5}],
            "meta": {"api_version": {"version": "2", "is_experimental": False}, **META},
        },
    ),
    "/cohere/v1/rerank": (
        {**ASKED, "top_n": 1, "return_documents": True},
        {
            "id": "…",
            "results": [{"index": 2, "relevance_score": 1.0, "document": {"text": "c"}}],
            "meta": {"api_version": {"version": "1"}, **META},
        },
    ),
    "/jina/v1/rerank": (
        ASKED,
        {
            "model": "points",
            "object": "list",
            "usage": USAGE,
            "results": [
                {"index": 2, "relevance_score": 1.0, "document": {"text": "c"}},
                {"index": 0, "relevance_score": 0.5, "document": {"text": "a"}},
            ],
        },
    ),
    "/voyage/v1/rerank": (
        {"model": "points", "query": "q", "documents": DOCUMENTS, "top_k": 2, "return_documents": True},
        {
            "object": "list",
            "data": [
                {"relevance_score": 1.0, "index": 2, "document": "c"},
                {"relevance_score": 0.5, "index": 0, "document": "a"},
            ],
            "model": "points",
            "usage": {"total_tokens": 30},
        },
    ),
    "/tei/points/rerank": (
        {"query": "q", "texts": DOCUMENTS, "return_text": True},
        [
            {"index": 2, "text": "c", "score": 1.0},
            {"index": 0, "text": "a", "score": 0.5},
            {"index": 1, "text": "b", "score": 1 / 3},
        ],
    ),
    "/vllm/rerank": (
        ASKED,
        {
            "id": "…",
            "model": "points",
            "usage": USAGE,
            "results": [
                {"index": 2, "document": {"text": "c", "multi_modal": None}, "relevance_score": 1.0},
                {"index": 0, "document": {"text": "a", "multi_modal": None}, "relevance_score": 0.5},
            ],
        },
    ),
    "/score": (
        {"model": "points", "text_1": "q", "text_2": DOCUMENTS},
        {
            "id": "…",
            "object": "list",
            "created": "…",
            "model": "points",
            "data": [
                {"index": 0, "object": "score", "score": 0.5},
                {"index": 1, "object": "score", "score": 1 / 3},
                {"index": 2, "object": "score", "score": 1.0},
            ],
            "usage": USAGE,
        },
    ),
}


@pytest.mark.parametrize("path", GOLDEN)
async def test_it_is_the_same_as_ever(path: str) -> None:
    asked, expected = GOLDEN[path]
    async with resting(standing(Grading(truth(2, 0, 1), kind=ScoreKind.PROBABILITY))) as rest:
        answer = await rest.post(path, asked)
    given = answer.json()
    if isinstance(given, dict):
        given |= {key: "…" for key in ("id", "created") if key in given}
    assert given == expected
    assert answer.headers["x-podium-scores"] == "probability"
    assert answer.headers["x-podium-completion"] == "complete"
