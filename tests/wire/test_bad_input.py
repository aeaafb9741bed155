"""Whatever a caller may get wrong is answered with its documented code, the field, and a sentence that helps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.struct_pb2 import Struct
from google.rpc.error_details_pb2 import PreconditionFailure, ResourceInfo, RetryInfo

from podium.v1 import document_pb2, ranking_pb2, rerank_service_pb2, strategy_pb2
from podium_server.limits import Limits
from podium_strategies.oracle import Oracle
from podium_strategies.plan import Grade
from tests.ranking.scripted import ScriptedJudge
from tests.wire.serving import Stubs, ids, refused, request, serving, standing

Request = rerank_service_pb2.RerankRequest
INVALID = grpc.StatusCode.INVALID_ARGUMENT
MIB = 1 << 20


@pytest_asyncio.fixture
async def stubs() -> AsyncIterator[Stubs]:
    async with serving(standing()) as served:
        yield served


def changed(change: Callable[[Request], Any], n: int = 4) -> Request:
    message = request(n)
    change(message)
    return message


def documents(*given: tuple[str, str]) -> Request:
    return Request(query="q", documents=[document_pb2.Document(id=id_, text=text) for id_, text in given])


def inline(*stages: strategy_pb2.InlineStrategy) -> Request:
    message = request(4)
    message.inline.stages.extend(stages)
    return message


def options(**given: Any) -> Struct:
    struct = Struct()
    struct.update(given)
    return struct


Inline = strategy_pb2.InlineStrategy
MANY_FIELDS = document_pb2.Fields(fields=[document_pb2.Field(name=f"f{i}") for i in range(33)])

BAD: dict[str, tuple[Request, list[str]]] = {
    "empty query": (changed(lambda m: setattr(m, "query", "")), ["query"]),
    "query of spaces": (changed(lambda m: setattr(m, "query", " \n\t　")), ["query"]),
    "query of NULs": (changed(lambda m: setattr(m, "query", "\0\0")), ["query"]),
    "long query": (changed(lambda m: setattr(m, "query", "é" * 17_000)), ["query"]),
    "long instruction": (changed(lambda m: setattr(m, "instruction", "x" * 33_000)), ["instruction"]),
    "no candidates": (request(0), ["documents"]),
    "too many candidates": (request(10_001), ["documents"]),
    "duplicate ids": (
        documents(("a", "1"), ("b", "2"), ("a", "3"), ("b", "4")),
        ["documents[2].id", "documents[3].id"],
    ),
    "long id": (documents(("x" * 513, "1")), ["documents[0].id"]),
    "NUL in an id": (documents(("a", "1"), ("b\0", "2")), ["documents[1].id"]),
    "text of 5 MB": (documents(("a", "1"), ("b", "x" * (5 * MIB))), ["documents[1].text"]),
    "text of 5 MB, not ASCII": (documents(("b", "é" * (5 * MIB // 2))), ["documents[0].text"]),
    "score that is no number": (
        changed(lambda m: setattr(m.documents[2], "prior_score", float("nan"))),
        ["documents[2].prior_score"],
    ),
    "endless score": (
        changed(lambda m: setattr(m.documents[0], "prior_score", float("inf"))),
        ["documents[0].prior_score"],
    ),
    "top_n of 0": (request(4, top_n=0), ["top_n"]),
    "negative top_n": (request(4, top_n=-3), ["top_n"]),
    "negative cost": (changed(lambda m: setattr(m.budget, "max_cost_nano_usd", -1)), ["budget.max_cost_nano_usd"]),
    "negative calls": (changed(lambda m: setattr(m.budget, "max_calls", -1)), ["budget.max_calls"]),
    "negative tokens": (changed(lambda m: setattr(m.budget, "max_tokens", -1)), ["budget.max_tokens"]),
    "no time": (changed(lambda m: m.budget.soft_deadline.SetInParent()), ["budget.soft_deadline"]),
    "negative time": (changed(lambda m: m.budget.soft_deadline.FromSeconds(-1)), ["budget.soft_deadline"]),
    "unknown enum": (changed(lambda m: setattr(m.budget, "on_exhausted", 99)), ["budget.on_exhausted"]),
    "unknown explain": (request(4, explain=17), ["explain"]),
    "no tokens of a document": (
        changed(lambda m: setattr(m.truncation, "max_tokens_per_document", 0)),
        ["truncation.max_tokens_per_document"],
    ),
    "unknown side": (changed(lambda m: setattr(m.truncation, "side", 9)), ["truncation.side"]),
    "too many fields": (
        changed(lambda m: m.documents[1].fields.CopyFrom(MANY_FIELDS)),
        ["documents[1].fields"],
    ),
    "field without a name": (
        changed(lambda m: m.documents[1].fields.fields.add(text="x")),
        ["documents[1].fields.fields[0].name"],
    ),
    "no stages": (changed(lambda m: m.inline.SetInParent()), ["inline.stages"]),
    "17 stages": (inline(*[Inline(strategy="first-stage")] * 17), ["inline.stages"]),
    "stage without a strategy": (inline(Inline(model="m")), ["inline.stages[0].strategy"]),
    "keep of 0": (inline(Inline(strategy="first-stage", keep=0)), ["inline.stages[0].keep"]),
    "unknown option": (
        inline(Inline(strategy="sliding-window", model="m", options=options(sise=3))),
        ["inline.stages[0]"],
    ),
    "option of a wrong type": (
        inline(Inline(strategy="sliding-window", model="m", options=options(size="big"))),
        ["inline.stages[0]"],
    ),
    "options that do not go together": (
        inline(Inline(strategy="sliding-window", model="m", options=options(size=3, stride=5))),
        ["inline.stages[0]"],
    ),
    "a field among the options": (
        inline(Inline(strategy="first-stage", options=options(model="m"))),
        ["inline.stages[0].options.model"],
    ),
    "strategy without its model": (inline(Inline(strategy="pointwise")), ["inline.stages[0].model"]),
    "much inline": (inline(Inline(strategy="first-stage", options=options(x="y" * 70_000))), ["inline"]),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_mistake_is_refused_with_its_field(stubs: Stubs, name: str) -> None:
    message, fields = BAD[name]
    error = await refused(stubs.rerank.Rerank(message))
    assert error.code is INVALID
    assert error.fields == fields
    assert error.info.reason == "INVALID_REQUEST"
    assert error.info.domain == "podium"
    assert error.info.metadata["request_id"] == error.trailers["x-request-id"]
    assert len(error.message) > 10


async def test_the_same_mistakes_in_a_stream_and_in_a_batch(stubs: Stubs) -> None:
    message, fields = BAD["top_n of 0"]
    error = await refused(stubs.rerank.StreamRerank(rerank_service_pb2.StreamRerankRequest(request=message)))
    assert (error.code, error.fields) == (INVALID, fields)


async def test_one_candidate_is_a_list_too(stubs: Stubs) -> None:
    answer = await stubs.rerank.Rerank(request(1, "window"))
    assert ids(answer.ranking) == ["d0"]
    assert answer.completion == ranking_pb2.COMPLETION_COMPLETE


def warned(answer: rerank_service_pb2.RerankResponse) -> dict[str, ranking_pb2.Warning]:
    return {ranking_pb2.WarningCode.Name(one.code).removeprefix("WARNING_CODE_"): one for one in answer.warnings}


async def test_what_can_be_mended_is_mended_and_warned_of(stubs: Stubs) -> None:
    message = documents(("a", "same"), ("b", "same"), ("c", ""), ("", " \n"), ("e", "nul\0nul"), ("f", "fine"))
    answer = await stubs.rerank.Rerank(message)
    assert len(answer.ranking) == 6
    warnings = warned(answer)
    assert set(warnings) == {"EQUAL_TEXTS", "EMPTY_TEXT", "TEXT_CLEANED"}
    assert list(warnings["EQUAL_TEXTS"].input_indexes) == [1]
    assert list(warnings["EQUAL_TEXTS"].document_ids) == ["b"]
    assert list(warnings["EMPTY_TEXT"].input_indexes) == [2, 3]
    assert list(warnings["EMPTY_TEXT"].document_ids) == ["c"]
    assert warnings["EMPTY_TEXT"].documents == 2
    assert list(warnings["TEXT_CLEANED"].document_ids) == ["e"]


async def test_documents_without_ids_are_known_by_their_place(stubs: Stubs) -> None:
    message = documents(("", "1"), ("", "2"), ("", "3"))
    answer = await stubs.rerank.Rerank(message)
    assert [(ranked.document_id, ranked.input_index) for ranked in answer.ranking] == [("", 0), ("", 1), ("", 2)]


async def test_a_thousand_warned_documents_are_counted_and_a_hundred_named(stubs: Stubs) -> None:
    message = documents(*((f"d{i}", "") for i in range(1_000)))
    warning = warned(await stubs.rerank.Rerank(message))["EMPTY_TEXT"]
    assert (warning.documents, len(warning.document_ids), len(warning.input_indexes)) == (1_000, 100, 100)


async def test_lone_surrogates_never_come_through_a_message(stubs: Stubs) -> None:
    """A message with them cannot be written by a protobuf library; bytes made by hand are refused as what they are."""
    good = documents(("a", "xxx")).SerializeToString()
    raw = stubs.channel.unary_unary("/podium.v1.RerankService/Rerank")
    for bad in (good.replace(b"xxx", b"\xed\xa0\x80"), good.replace(b"\x01a", b"\x01\xff"), b"\xff\xff\xff", good[:-2]):
        error = await refused(raw(bad))
        assert error.code is INVALID
        assert error.fields == ["request"]
        assert "UTF-8" in error.message


async def test_unreadable_messages_of_streams(stubs: Stubs) -> None:
    async def messages() -> AsyncIterator[bytes]:
        yield b"\xff\xff\xff"

    for method in ("RerankService/BatchRerank", "IndexService/UpsertDocuments"):
        kind = stubs.channel.stream_stream if "Batch" in method else stubs.channel.stream_unary
        error = await refused(kind(f"/podium.v1.{method}")(messages()))
        assert error.code in (INVALID, grpc.StatusCode.FAILED_PRECONDITION)


@pytest.mark.parametrize(
    ("message", "kind", "name"),
    [
        (request(4, "widow"), "pipeline", "widow"),
        (request(4, "x" * 100_000), "pipeline", "x" * 64 + "…"),
        (request(4, "a\0\n\x7f名"), "pipeline", "a\0\n\x7f名"),
        (inline(Inline(strategy="pointwse", model="m")), "strategy", "pointwse"),
        (inline(Inline(strategy="pointwise", model="n")), "model", "n"),
        # A configuration may name a file of the server; a caller must not be able to have it read.
        (inline(Inline(strategy="pointwise", model="m", prompt="/etc/own.toml")), "prompt", "/etc/own.toml"),
        (
            inline(Inline(strategy="fusion", options=options(of=[{"strategy": "pointwise", "prompt": "../x.toml"}]))),
            "prompt",
            "../x.toml",
        ),
    ],
)
async def test_unknown_names_are_answered_with_those_there_are(
    stubs: Stubs, message: Request, kind: str, name: str
) -> None:
    error = await refused(stubs.rerank.Rerank(message))
    assert error.code is grpc.StatusCode.NOT_FOUND
    resource = error.detail(ResourceInfo)
    assert (resource.resource_type, resource.resource_name) == (kind, name)
    known = error.info.metadata["known"].split(",")
    there = {"pipeline": "window", "strategy": "pointwise", "model": "m", "prompt": "rank-vicuna"}
    assert there[kind] in known
    assert error.info.reason == "NOT_FOUND"


async def test_a_near_miss_is_told(stubs: Stubs) -> None:
    assert "did you mean 'window'" in (await refused(stubs.rerank.Rerank(request(4, "widow")))).message


async def test_a_model_that_cannot_answer_is_a_precondition(stubs: Stubs) -> None:
    judge = ScriptedJudge(Oracle.seeded(4, 1), answers=frozenset({Grade}))
    async with serving(standing(judge, window=[{"strategy": "first-stage"}])) as served:
        error = await refused(served.rerank.Rerank(inline(Inline(strategy="sliding-window", model="m"))))
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert error.detail(PreconditionFailure).violations[0].description


async def test_a_cost_limit_needs_prices(stubs: Stubs) -> None:
    message = request(8, "window")
    message.budget.max_cost_nano_usd = 5
    error = await refused(stubs.rerank.Rerank(message))
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_message_over_the_limit_is_refused_by_grpc(stubs: Stubs) -> None:
    message = documents(*((f"d{i}", "x" * MIB) for i in range(33)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stubs.rerank.Rerank(message)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_message_just_below_the_limit_is_served(stubs: Stubs) -> None:
    message = documents(*((f"d{i}", "x" * (MIB - 100)) for i in range(31)))
    assert len((await stubs.rerank.Rerank(message)).ranking) == 31


async def test_ten_thousand_candidates_are_served(stubs: Stubs) -> None:
    assert len((await stubs.rerank.Rerank(request(10_000))).ranking) == 10_000


async def test_a_full_server_says_when_to_come_back() -> None:
    slow = ScriptedJudge(Oracle.seeded(16, 1), delay_s=lambda _: 1.0)
    async with serving(standing(slow, Limits(concurrent_requests=1))) as served:
        first = served.rerank.Rerank(request(4, "points"))
        await asyncio.sleep(0.1)
        error = await refused(served.rerank.Rerank(request(4)))
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.info.reason == "OVERLOADED"
        assert error.detail(RetryInfo).retry_delay.ToMilliseconds() > 0
        assert int(error.trailers["grpc-retry-pushback-ms"]) > 0
        assert len((await first).ranking) == 4


async def test_a_method_that_is_not_there(stubs: Stubs) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stubs.channel.unary_unary("/podium.v1.RerankService/Nothing")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
