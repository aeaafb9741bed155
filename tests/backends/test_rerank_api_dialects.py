"""What is sent in each dialect, and what is made of any bytes that come back."""

from __future__ import annotations

import json
import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_server.backends.rerank_api.dialects import DIALECTS, Dialect, Unreadable, dialect, read
from podium_server.config import RerankApiModel
from tests.backends import rerankers

TEXTS = [f"the text number {i}" for i in range(7)]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)
dialects = st.sampled_from(list(DIALECTS.values()))


def replied(spoken: Dialect, results: Any) -> bytes:
    return json.dumps({spoken.results: results} if spoken.results else results).encode()


def test_the_configuration_knows_the_dialects_that_there_are() -> None:
    assert set(typing.get_args(RerankApiModel.model_fields["dialect"].annotation)) == set(DIALECTS)
    with pytest.raises(ValueError, match="no dialect is named 'cohere'; did you mean 'cohere-v2'"):
        dialect("cohere")


@pytest.mark.parametrize("name", DIALECTS)
def test_scores_stand_where_their_texts_stood_however_they_come(name: str) -> None:
    spoken = DIALECTS[name]
    sent = spoken.body("the query", TEXTS, model="m")
    body, headers = rerankers.reply(name, sent)
    scored = read(spoken, json.dumps(body).encode(), len(TEXTS), headers)
    assert scored.scores == tuple(rerankers.probability("the query", text) for text in TEXTS)
    told = scored.told
    if spoken.by_search_units:
        assert (told.search_units, told.prompt_tokens) == (1, None)
    else:
        assert (told.search_units, told.prompt_tokens) == (None, rerankers.tokens(sent))
    assert told.model == ("" if name in ("tei", "cohere-v1", "cohere-v2") else "m")


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("cohere-v2", {"model": "m", "query": "q", "documents": ["a"], "max_tokens_per_doc": 512}),
        ("cohere-v1", {"model": "m", "query": "q", "documents": ["a"], "return_documents": False}),
        ("jina", {"model": "m", "query": "q", "documents": ["a"], "return_documents": False}),
        (
            "voyage",
            {"model": "m", "query": "q", "documents": ["a"], "return_documents": False, "truncation": True},
        ),
        ("tei", {"query": "q", "texts": ["a"], "truncate": True}),
        ("infinity", {"model": "m", "query": "q", "documents": ["a"], "return_documents": False}),
        (
            "vllm",
            {
                "model": "m",
                "query": "q",
                "documents": ["a"],
                "truncate_prompt_tokens": -1,
                "max_tokens_per_doc": 512,
                "instruction": "as if it were for a cook",
            },
        ),
    ],
)
def test_what_is_sent(name: str, sent: dict[str, Any]) -> None:
    spoken = DIALECTS[name]
    assert spoken.body("q", ["a"], model="m", max_tokens=512, instruction="as if it were for a cook") == sent
    raw = spoken.body("q", ["a"], model="m", raw=bool(spoken.raw))
    assert raw.items() >= spoken.raw.items()


@pytest.mark.parametrize(
    ("name", "given", "address"),
    [
        ("cohere-v2", "https://api.cohere.com", "https://api.cohere.com/v2/rerank"),
        ("cohere-v2", "https://api.cohere.com/", "https://api.cohere.com/v2/rerank"),
        ("cohere-v2", "https://api.cohere.com/v2", "https://api.cohere.com/v2/rerank"),
        ("cohere-v1", "https://proxy/cohere", "https://proxy/cohere/v1/rerank"),
        ("jina", "https://api.jina.ai/v1", "https://api.jina.ai/v1/rerank"),
        ("voyage", "https://api.voyageai.com/v1/rerank", "https://api.voyageai.com/v1/rerank"),
        ("tei", "http://h:8080", "http://h:8080/rerank"),
        ("vllm", "http://h:8000/v1", "http://h:8000/v1/rerank"),
    ],
)
def test_an_address_may_repeat_the_paths_beginning(name: str, given: str, address: str) -> None:
    assert DIALECTS[name].address(given) == address


@given(dialects, st.binary(max_size=200), st.integers(1, 5))
def test_any_bytes_are_scores_or_unreadable(spoken: Dialect, raw: bytes, count: int) -> None:
    try:
        scored = read(spoken, raw, count)
    except Unreadable:
        return
    assert len(scored.scores) == count


@given(dialects, json_values, st.integers(1, 5))
def test_any_json_is_scores_or_unreadable(spoken: Dialect, value: Any, count: int) -> None:
    for raw in (json.dumps(value).encode(), replied(spoken, value)):
        try:
            scored = read(spoken, raw, count)
        except Unreadable:
            continue
        assert len(scored.scores) == count


@given(dialects, st.integers(1, 6), st.lists(st.integers(-2, 7), max_size=9))
def test_only_each_index_once_is_an_answer(spoken: Dialect, count: int, indices: list[int]) -> None:
    raw = replied(spoken, [{"index": i, spoken.score: i / 10} for i in indices])
    if sorted(indices) == list(range(count)):
        assert read(spoken, raw, count).scores == tuple(i / 10 for i in range(count))
    else:
        with pytest.raises(Unreadable):
            read(spoken, raw, count)


@pytest.mark.parametrize("score", ["NaN", "Infinity", "-Infinity", "null", '"0.5"', "true", "[0.5]", "1" + "0" * 400])
@pytest.mark.parametrize("name", DIALECTS)
def test_what_is_no_finite_number_is_no_score(name: str, score: str) -> None:
    spoken = DIALECTS[name]
    raw = replied(spoken, [{"index": 0, spoken.score: 0.5}, {"index": 1, spoken.score: "HERE"}])
    with pytest.raises(Unreadable, match="for the document 1"):
        read(spoken, raw.replace(b'"HERE"', score.encode()), 2)


@pytest.mark.parametrize("index", ["1.0", "true", '"1"', "null", "-1", "2"])
def test_what_is_no_index_of_ours_is_none(index: str) -> None:
    spoken = DIALECTS["jina"]
    raw = replied(spoken, [{"index": 0, "relevance_score": 0.5}, {"index": "HERE", "relevance_score": 0.5}])
    with pytest.raises(Unreadable, match="and 2 documents were sent"):
        read(spoken, raw.replace(b'"HERE"', index.encode()), 2)


@given(json_values, json_values, json_values)
def test_whatever_a_reply_says_of_its_usage_the_amounts_are_amounts(usage: Any, meta: Any, units: Any) -> None:
    for spoken in DIALECTS.values():
        body: Any = {
            "usage": usage,
            "meta": {"billed_units": units, "tokens": usage, "cached_tokens": units} if meta is None else meta,
            "model": units,
            spoken.results or "results": rerankers.results([0.5], spoken.score),
        }
        raw = json.dumps(body if spoken.results else body["results"]).encode()
        told = read(spoken, raw, 1, {"x-compute-tokens": str(units)}).told
        for amount in (told.prompt_tokens, told.cached_tokens, told.search_units):
            assert amount is None or (isinstance(amount, int) and 0 <= amount < 10**11)
        assert isinstance(told.model, str)
