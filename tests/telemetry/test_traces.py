"""Spans of real calls, at a receiver of OTLP on a socket, and the trace that goes on to the endpoints."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from podium.v1 import rerank_service_pb2
from podium_server.compose import Podium
from podium_server.config import Config, load
from podium_server.telemetry import spans, tracing
from podium_server.telemetry.tracing import Tracing
from podium_server.transport.server import Server
from podium_strategies.oracle import Oracle
from tests.backends.naughty import Naughty, body, reply, status
from tests.ranking.scripted import ScriptedJudge
from tests.wire.serving import OWN_CONNECTIONS, Stubs, refused, request, standing

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


@dataclass
class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """What a collector is to us."""

    spans: list[Any] = field(default_factory=list)

    def Export(self, message: Any, context: Any) -> Any:  # noqa: N802
        for resource in message.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def receiving() -> Iterator[tuple[Receiver, str]]:
    receiver = Receiver()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield receiver, f"http://127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def configured(tmp_path: Path, endpoint: str, collector: str, **telemetry: Any) -> Config:
    path = tmp_path / "podium.toml"
    lines = "\n".join(f"{key} = {str(value).lower()}" for key, value in telemetry.items())
    path.write_text(
        f"""
        [telemetry]
        traces_endpoint = "{collector}"
        {lines}
        [models.chat]
        backend = "openai"
        model = "tiny"
        base_url = "{endpoint}"
        capabilities = ["text"]
        [models.ranks]
        backend = "rerank-api"
        dialect = "vllm"
        model = "small"
        base_url = "{endpoint.removesuffix("/v1")}"
        attempts = 1
        [models.far]
        backend = "openai-embeddings"
        model = "e"
        base_url = "{endpoint}"
        dimensions = 2
        [pipelines.embedded]
        stages = [{{ strategy = "pointwise", model = "far", scoring = "cosine" }}]
        [pipelines.asked]
        stages = [
          {{ strategy = "pointwise", model = "minilm", keep = 2 }},
          {{ strategy = "sliding-window", model = "chat", prompt = "rank-gpt" }},
        ]
        [pipelines.remote]
        stages = [{{ strategy = "pointwise", model = "ranks" }}]
        """
    )
    return load(path)


@asynccontextmanager
async def serving(config: Config) -> AsyncIterator[Stubs]:
    podium = Podium(config, data_dir=None, collections=False, serving=True)
    await podium.start()
    server = Server(podium, guards=podium.call_guards)
    try:
        async with grpc.aio.insecure_channel(await server.start("127.0.0.1", 0), options=OWN_CONNECTIONS) as channel:
            yield Stubs(channel, server, "")
    finally:
        await server.stop()
        await podium.aclose()


def attributes(span: Any) -> dict[str, Any]:
    def value(given: Any) -> Any:
        kind = given.WhichOneof("value")
        found = getattr(given, kind)
        return [value(each) for each in found.values] if kind == "array_value" else found

    return {each.key: value(each.value) for each in span.attributes}


async def test_one_span_a_call_a_request_a_stage_and_a_model_call(tmp_path: Path) -> None:
    async with Naughty(status(503), reply("[2] > [1]")) as endpoint:
        with receiving() as (receiver, collector):
            async with serving(configured(tmp_path, endpoint.url, collector)) as served:
                traced = (("traceparent", f"00-{TRACE}-{PARENT}-01"), ("tracestate", "vendor=1"))
                await served.rerank.Rerank(request(4, "asked"), metadata=traced)
        by_name = {span.name: span for span in receiver.spans}
        assert set(by_name) == {
            "podium.v1.RerankService/Rerank",
            "rank",
            "stage pointwise",
            "embeddings minilm",
            "stage sliding-window",
            "chat tiny",
        }
        assert len(receiver.spans) == 6  # two attempts are one call
        call = by_name["podium.v1.RerankService/Rerank"]
        assert {span.trace_id.hex() for span in receiver.spans} == {TRACE}
        assert call.parent_span_id.hex() == PARENT
        parents = {name: span.parent_span_id for name, span in by_name.items()}
        assert parents["rank"] == call.span_id
        assert parents["stage pointwise"] == parents["stage sliding-window"] == by_name["rank"].span_id
        assert parents["embeddings minilm"] == by_name["stage pointwise"].span_id
        assert parents["chat tiny"] == by_name["stage sliding-window"].span_id
        chat = attributes(by_name["chat tiny"])
        assert chat["gen_ai.operation.name"] == "chat"
        assert chat["gen_ai.provider.name"] == "openai"
        assert chat["gen_ai.request.model"] == "tiny"
        assert chat["gen_ai.response.finish_reasons"] == ["stop"]
        assert chat["gen_ai.usage.input_tokens"] > 0
        assert (chat["server.address"], chat["server.port"]) == ("127.0.0.1", endpoint.port)
        assert chat["podium.calls"] == 2
        assert attributes(by_name["rank"])["podium.completion"] == "complete"
        assert attributes(call)["rpc.response.status_code"] == "OK"
        # Every attempt carries the trace on.
        for asked in endpoint.calls:
            assert asked.headers["traceparent"] == f"00-{TRACE}-{by_name['chat tiny'].span_id.hex()}-01"
            assert asked.headers["tracestate"] == "vendor=1"


async def test_a_rerank_endpoint_is_told_of_the_trace_and_its_failure_is_seen(tmp_path: Path) -> None:
    async with Naughty(path="/rerank") as endpoint:
        with receiving() as (receiver, collector):
            async with serving(configured(tmp_path, endpoint.url, collector)) as served:
                await refused(served.rerank.Rerank(request(3, "remote")))
        by_name = {span.name: span for span in receiver.spans}
        ranked = by_name["rerank small"]
        assert ranked.status.code == 2
        assert attributes(by_name["podium.v1.RerankService/Rerank"])["rpc.response.status_code"] != "OK"
        [asked, *_] = endpoint.calls
        assert asked.headers["traceparent"].split("-")[2] == ranked.span_id.hex()


async def test_an_embeddings_endpoint_is_told_of_the_trace(tmp_path: Path) -> None:
    def vectors(asked: Any) -> Any:
        data = [{"object": "embedding", "index": i, "embedding": [1.0, i]} for i in range(len(asked.body["input"]))]
        return body(json.dumps({"object": "list", "data": data, "model": "e"}).encode())

    async with Naughty(choose=vectors, path="/embeddings") as endpoint:
        with receiving() as (receiver, collector):
            async with serving(configured(tmp_path, endpoint.url, collector)) as served:
                await served.rerank.Rerank(request(3, "embedded"))
        names = {span.span_id.hex(): span.name for span in receiver.spans}
        told = [asked.headers["traceparent"].split("-")[2] for asked in endpoint.calls]
        assert [names[each] for each in told] == ["stage pointwise", "embeddings far"], "the query, and the documents"


@pytest.mark.parametrize("wanted", [False, True])
async def test_texts_are_in_spans_only_where_the_configuration_says_so(tmp_path: Path, wanted: bool) -> None:
    async with Naughty(reply("[2] > [1]")) as endpoint:
        with receiving() as (receiver, collector):
            async with serving(configured(tmp_path, endpoint.url, collector, traces_texts=wanted)) as served:
                secret = rerank_service_pb2.RerankRequest(query="tell-tale", pipeline="asked")
                for i in range(3):
                    secret.documents.add(id=f"d{i}", text=f"hush-{i}")
                await served.rerank.Rerank(secret)
    told = b"".join(span.SerializeToString() for span in receiver.spans)
    assert (b"tell-tale" in told) is wanted
    assert (b"hush-" in told) is wanted
    assert (b"[2] > [1]" in told) is wanted


async def test_a_caller_who_wants_no_trace_gets_none_and_the_backend_is_told_so(tmp_path: Path) -> None:
    async with Naughty(reply("[2] > [1]")) as endpoint:
        with receiving() as (receiver, collector):
            async with serving(configured(tmp_path, endpoint.url, collector)) as served:
                unseen = f"00-{TRACE}-{PARENT}-00"
                await served.rerank.Rerank(request(4, "asked"), metadata=(("traceparent", unseen),))
        assert not receiver.spans
        assert endpoint.calls[0].headers["traceparent"] == unseen


async def test_a_collector_that_is_gone_disturbs_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_SEND_S_MAX", 0.5)  # what the end waits for
    async with (
        Naughty(reply("[2] > [1]")) as endpoint,
        serving(configured(tmp_path, endpoint.url, "http://127.0.0.1:1")) as served,
    ):
        assert len((await served.rerank.Rerank(request(4, "asked"))).ranking) == 4


# --- in memory ------------------------------------------------------------------------------------------------------


async def traced(pipeline: str, n: int = 8, **judge: Any) -> list[ReadableSpan]:
    """Return the spans of one request."""
    exporter = InMemorySpanExporter()
    collecting = Tracing(exporter=exporter)
    podium = standing(ScriptedJudge(Oracle.seeded(16, 1), **judge))
    podium.reranker.guards = [collecting.work]
    server = Server(podium, guards=[collecting.call])
    async with grpc.aio.insecure_channel(await server.start("127.0.0.1", 0), options=OWN_CONNECTIONS) as channel:
        call = Stubs(channel, server, "").rerank.Rerank(request(n, pipeline))
        await asyncio.gather(call, return_exceptions=True)
    await server.stop()
    collecting.close()
    return list(exporter.get_finished_spans())


async def test_a_stage_of_many_rounds_is_one_span_and_lies_inside_its_request() -> None:
    found = {span.name: span for span in await traced("window", 16, delay_s=lambda _: 0.001)}
    assert set(found) == {"podium.v1.RerankService/Rerank", "rank", "stage sliding-window"}
    stage, rank = found["stage sliding-window"], found["rank"]
    assert rank.start_time is not None
    assert stage.start_time is not None
    assert rank.start_time <= stage.start_time
    assert stage.end_time is not None
    assert rank.end_time is not None
    assert stage.end_time <= rank.end_time
    assert stage.attributes is not None
    assert stage.attributes["podium.rounds"] == 7


async def test_a_failure_is_on_the_spans_that_it_passed_and_tells_no_strangers_text() -> None:
    found = {span.name: span for span in await traced("points", fail_at=dict.fromkeys(range(99), OSError("hush")))}
    call = found["podium.v1.RerankService/Rerank"]
    assert not call.status.is_ok
    assert call.attributes is not None
    assert call.attributes["rpc.response.status_code"] == "INTERNAL"
    assert "hush" not in str([(span.status.description, dict(span.attributes or {})) for span in found.values()])


def test_nobody_pays_for_spans_that_nobody_collects() -> None:
    with spans.opened("x") as span:
        assert span is None
        assert spans.headers() == {}
