"""Quotas over the wire: what a caller is told, and what counts."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from google.rpc.error_details_pb2 import QuotaFailure, RetryInfo

from podium.v1 import document_pb2, index_service_pb2, ranking_pb2, rerank_service_pb2
from podium_server.access.refusals import Refusal
from tests.access.made import standing
from tests.wire.serving import refused, request


async def test_a_used_up_quota_says_so_and_forbids_retries(tmp_path: Path) -> None:
    quotas = [{"per": "month", "requests": 3}]
    async with standing(tmp_path, tenants={"acme": {"quotas": quotas}}) as server:
        acme, rival = (server.stubs(server.key(tenant)) for tenant in ("acme", "rival"))
        for _ in range(3):
            await acme.rerank.Rerank(request(2))
        error = await refused(acme.rerank.Rerank(request(2)))
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.info.reason == "QUOTA_EXCEEDED"
        assert error.info.metadata["quota"] == "requests/month"
        violation = error.detail(QuotaFailure).violations[0]
        assert violation.subject == "tenant:acme"
        assert error.detail(RetryInfo).retry_delay.seconds > 0
        assert error.trailers["grpc-retry-pushback-ms"] == "-1"
        await rival.rerank.Rerank(request(2))
        assert server.podium.access is not None
        assert server.podium.access.refusals == {(Refusal.QUOTA, "acme"): 1}


async def test_a_restart_and_another_process_know_what_was_used(tmp_path: Path) -> None:
    tenants = {"acme": {"quotas": [{"per": "month", "requests": 10}]}}
    for round_ in range(2):
        async with standing(tmp_path, tenants=tenants) as server:
            stubs = server.stubs(server.key("acme"))
            for _ in range(5):
                await stubs.rerank.Rerank(request(2))
            if round_ == 1:
                assert (await refused(stubs.rerank.Rerank(request(2)))).info.reason == "QUOTA_EXCEEDED"


async def test_items_of_a_batch_and_contenders_count_each(tmp_path: Path) -> None:
    async with standing(tmp_path, tenants={"acme": {"quotas": [{"per": "month", "requests": 4}]}}) as server:
        stubs = server.stubs(server.key("acme"))
        items = [rerank_service_pb2.BatchRerankRequest(item_id=str(i), request=request(2)) for i in range(7)]
        answers = [answer async for answer in stubs.rerank.BatchRerank(iter(items))]
        assert len(answers) == 7
        assert sum(answer.HasField("response") for answer in answers) == 4


async def test_money_without_a_price_is_refused_beforehand(tmp_path: Path) -> None:
    """And pipelines that ask nobody cost nothing, and need no price."""
    tenants = {"acme": {"quotas": [{"per": "day", "usd": 1.0}]}}
    pipelines = {"asks": {"stages": [{"strategy": "pointwise", "model": "minilm"}]}}
    async with standing(tmp_path, tenants=tenants, pipelines=pipelines) as server:
        stubs = server.stubs(server.key("acme"))
        await stubs.rerank.Rerank(request(2, "plain"))
        error = await refused(stubs.rerank.Rerank(request(2, "asks")))
        assert error.code is grpc.StatusCode.FAILED_PRECONDITION
        assert "minilm" in error.message


@pytest.mark.parametrize("unit", ["usd", "tokens"])
async def test_an_encoder_without_a_price_fills_nothing_where_money_is_bounded(tmp_path: Path, unit: str) -> None:
    """And other quotas need no price."""
    async with standing(tmp_path, store=True, tenants={"acme": {"quotas": [{"per": "day", unit: 1000}]}}) as server:
        index = server.stubs(server.key("acme")).index
        mine = index_service_pb2.Collection(name="mine")
        await index.CreateCollection(index_service_pb2.CreateCollectionRequest(collection=mine))
        documents = [document_pb2.Document(id="d", text="a text")]
        call = index.UpsertDocuments(
            iter([index_service_pb2.UpsertDocumentsRequest(collection="mine", documents=documents)])
        )
        if unit == "usd":
            error = await refused(call)
            assert error.code is grpc.StatusCode.FAILED_PRECONDITION
            assert "minilm" in error.message
        else:
            await call
        stats = await index.GetCollectionStats(index_service_pb2.GetCollectionStatsRequest(name="mine"))
        assert stats.documents == (unit == "tokens")


async def test_tokens_are_taken_before_and_settled_after(tmp_path: Path) -> None:
    tenants = {"acme": {"quotas": [{"per": "month", "tokens": 2000}]}}
    pipelines = {"asks": {"stages": [{"strategy": "pointwise", "model": "minilm"}]}}
    async with standing(tmp_path, store=True, tenants=tenants, pipelines=pipelines) as server:
        stubs = server.stubs(server.key("acme"))
        spent = 0
        for i in range(100):
            given = request(8, "asks")
            given.query = f"question {i}"
            for place, document in enumerate(given.documents):
                document.text = f"text {i} {place} " + "word " * 20
            call = stubs.rerank.Rerank(given)
            if await call.code() is not grpc.StatusCode.OK:
                break
            usage = (await call).ledger.total
            spent += usage.prompt_tokens + usage.output_tokens
        assert (await refused(call)).info.reason == "QUOTA_EXCEEDED"
        assert 1000 < spent <= 2000


async def test_an_encoder_that_is_paid_by_time_has_room_for_it(tmp_path: Path) -> None:
    """An estimate without the time would end each request at its second round (what the fault run found)."""
    quotas = [{"per": "month", "usd": 1.0, "tokens": 1_000_000}]
    model = {"backend": "openvino", "model": "all-minilm-l6-v2", "prices": {"compute_usd_per_hour": 36.0}}
    grades = {"strategy": "pointwise", "model": "minilm"}
    pipelines = {"twice": {"stages": [grades | {"keep": 6}, {"strategy": "feedback", "model": "minilm"}]}}
    more = {"tenants": {"acme": {"quotas": quotas}}, "models": {"minilm": model}, "pipelines": pipelines}
    async with standing(tmp_path, store=True, **more) as server:
        given = request(8, "twice")
        for place, document in enumerate(given.documents):
            document.text = f"the {place}th of the stones that lie beside the river behind our garden"
        estimate = await server.stubs(server.key("acme")).rerank.Estimate(
            rerank_service_pb2.EstimateRequest(request=given)
        )
        assert estimate.total.cost_nano_usd > 0
        answer = await server.stubs(server.key("acme")).rerank.Rerank(given)
        assert answer.ledger.total.cost_nano_usd > 0
        assert answer.completion == ranking_pb2.COMPLETION_COMPLETE
