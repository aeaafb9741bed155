"""Whatever a client sends, it is never our fault; and whatever it asks in good form, the order is the one of gRPC."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podium.v1 import document_pb2, rerank_service_pb2
from podium_server.transport.server import SERVICES
from tests.rest.serving import Rest, resting
from tests.wire.serving import standing

DIALECTS = [
    *("/rerank", "/v1/rerank", "/v2/rerank", "/cohere/v2/rerank", "/cohere/v1/rerank", "/jina/v1/rerank"),
    *("/voyage/v1/rerank", "/tei/rerank", "/tei/points/rerank", "/vllm/rerank", "/score"),
]
NATIVE = [
    f"/podium/v1/{method.name[0].lower()}{method.name[1:]}"
    for service in SERVICES
    for method in service.methods
    if not method.client_streaming
]
STREAMED = ["/podium/v1/batchRerank", "/podium/v1/upsertDocuments"]
KEYS = [
    *("query", "documents", "texts", "model", "top_n", "top_k", "return_documents", "rank_fields", "text", "image"),
    *("max_tokens_per_doc", "truncation", "truncate", "truncation_direction", "raw_scores", "return_text", "content"),
    *("truncate_prompt_tokens", "use_activation", "text_1", "text_2", "queries", "items", "instruction", "type"),
    *("request", "pipeline", "inline", "stages", "strategy", "budget", "softDeadline", "fields", "itemId", "seed"),
    *("filter", "options", "metadata", "contenders", "overlapAt", "sketch", "pageSize", "pageToken", "name", "\ud800"),
]
TEXTS = st.sampled_from(["", "a", "points", "window", "identity", "1s", "-1s", "\0", "\ud83d", "🍕", "Left"]) | st.text(
    max_size=8
)
LEAVES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXTS
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)
# What is right, with something in it changed.
GOOD: dict[str, Any] = {
    "query": "q",
    "documents": ["a", "b", {"text": "c", "title": "t"}],
    "texts": ["a", "b"],
    "text_1": "a",
    "text_2": ["b", "c"],
    "model": "points",
}
BODIES = VALUES | st.builds(
    lambda changed, left: {key: value for key, value in {**GOOD, **changed}.items() if key not in left},
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4),
    st.sets(st.sampled_from(sorted(GOOD))),
)


class Loop:
    """A server and its clients on one loop that lives as long as the examples of a test."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.rest: Rest = self.runner.run(self.stack.enter_async_context(resting(standing())))

    def post(self, path: str, content: bytes, **headers: str) -> Any:
        given = {"content-type": "application/json", **{key.replace("_", "-"): value for key, value in headers.items()}}
        return self.runner.run(self.rest.http.post(path, content=content, headers=given))

    def close(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


MANY = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

# Ten requests each.
FEWER = settings(MANY, max_examples=20)


def answered(answer: Any, content: bytes) -> None:
    assert answer.status_code < 500, (answer.status_code, answer.text, content)
    assert answer.headers["x-request-id"]
    for line in answer.text.splitlines():
        json.loads(line)


@MANY
@given(path=st.sampled_from(DIALECTS), body=BODIES)
def test_no_body_of_a_dialect_is_our_fault(loop: Loop, path: str, body: Any) -> None:
    content = json.dumps(body).encode()
    answered(loop.post(path, content), content)


@MANY
@given(path=st.sampled_from(NATIVE + STREAMED), body=BODIES)
def test_no_body_of_the_contract_is_our_fault(loop: Loop, path: str, body: Any) -> None:
    content = json.dumps(body).encode()
    answered(loop.post(path, content), content)


@MANY
@given(path=st.sampled_from(DIALECTS + NATIVE + STREAMED), content=st.binary(max_size=60))
def test_no_bytes_are_our_fault(loop: Loop, path: str, content: bytes) -> None:
    answered(loop.post(path, content), content)


@MANY
@given(path=st.sampled_from(STREAMED), bodies=st.lists(BODIES | st.just(GOOD), max_size=4))
def test_no_lines_are_our_fault(loop: Loop, path: str, bodies: list[Any]) -> None:
    content = "\n".join(map(json.dumps, bodies)).encode()
    answered(loop.post(path, content, content_type="application/x-ndjson"), content)


HEADERS = [
    "x-request-id",
    "traceparent",
    "x-podium-timeout-ms",
    "request-timeout",
    "content-type",
    "accept",
    "authorization",
]


@MANY
@given(
    path=st.sampled_from(DIALECTS + NATIVE),
    headers=st.dictionaries(
        st.sampled_from(HEADERS),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20).map(str.strip),
    ),
)
def test_no_headers_are_our_fault(loop: Loop, path: str, headers: dict[str, str]) -> None:
    content = json.dumps(GOOD).encode()
    answer = loop.runner.run(loop.rest.http.post(path, content=content, headers=headers))
    # A deadline of a millisecond may well pass.
    assert answer.status_code < 500 or answer.status_code == 504, (answer.status_code, answer.text)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@FEWER
@given(
    texts=st.lists(TEXT, min_size=1, max_size=16),
    query=TEXT.filter(str.strip),
    pipeline=st.sampled_from(["points", "window"]),
)
def test_every_dialect_gives_the_order_of_grpc(loop: Loop, texts: list[str], query: str, pipeline: str) -> None:
    documents = [document_pb2.Document(text=text) for text in texts]
    message = rerank_service_pb2.RerankRequest(query=query, documents=documents, pipeline=pipeline)

    async def ask() -> rerank_service_pb2.RerankResponse:
        made: rerank_service_pb2.RerankResponse = await loop.rest.grpc.Rerank(message)
        return made

    order = [ranked.input_index for ranked in loop.runner.run(ask()).ranking]
    common = {"model": pipeline, "query": query}
    for path in DIALECTS:
        if path == "/score":
            continue
        body = {**common, ("texts" if "/tei" in path else "documents"): texts}
        if path == "/tei/rerank":
            path = f"/tei/{pipeline}/rerank"
        elif path == "/tei/points/rerank" and pipeline != "points":
            continue
        answer = loop.post(path, json.dumps(body).encode())
        assert answer.status_code == 200, answer.text
        whole = answer.json()
        ranked = whole if isinstance(whole, list) else whole.get("results") or whole["data"]
        assert [each["index"] for each in ranked] == order
        values = [each.get("relevance_score", each.get("score")) for each in ranked]
        assert all(one >= other for one, other in pairwise(values))
        assert all(0 <= value <= 1 for value in values)
