"""A caller's deadline, and a caller who goes away, reach every backend: over real sockets at both ends.

Nothing here looks at a clock: an endpoint that never answers tells by an event that its client has gone, and what is
left (places, queues, bills) is counted then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from podium.v1 import ranking_pb2, rerank_service_pb2
from podium_server.accounting.usage import Usage
from podium_server.compose import Podium
from podium_server.config import load
from podium_server.transport.server import Server
from tests.backends.naughty import Naughty, hang
from tests.wire.serving import OWN_CONNECTIONS, Stubs, request, until

CHAT, RERANK, EMBED = "/chat/completions", "/rerank", "/embeddings"


@asynccontextmanager
async def serving(tmp_path: Path, endpoint: Naughty, *, concurrency: int = 8) -> AsyncIterator[tuple[Podium, Stubs]]:
    path = tmp_path / "podium.toml"
    path.write_text(
        f"""
        [models.chat]
        backend = "openai"
        model = "tiny"
        base_url = "{endpoint.url}"
        capabilities = ["text"]
        concurrency = {concurrency}
        prices = {{ prompt_usd_per_mtok = 1.0, output_usd_per_mtok = 1.0 }}
        [models.ranks]
        backend = "rerank-api"
        dialect = "vllm"
        model = "small"
        base_url = "{endpoint.url.removesuffix("/v1")}"
        concurrency = {concurrency}
        prices = {{ usd_per_call = 0.001 }}
        [models.embeds]
        backend = "openai-embeddings"
        model = "vectors"
        base_url = "{endpoint.url}"
        dimensions = 2
        [pipelines.asked]
        stages = [{{ strategy = "sliding-window", model = "chat", prompt = "rank-gpt" }}]
        [pipelines.remote]
        stages = [{{ strategy = "pointwise", model = "ranks" }}]
        [pipelines.embedded]
        stages = [{{ strategy = "pointwise", model = "embeds" }}]
        """
    )
    podium = Podium(load(path), data_dir=None, collections=False, serving=True)
    server = Server(podium, guards=podium.call_guards)
    try:
        async with grpc.aio.insecure_channel(await server.start("127.0.0.1", 0), options=OWN_CONNECTIONS) as channel:
            yield podium, Stubs(channel, server, "")
    finally:
        await server.stop()
        await podium.aclose()


def endpoints(podium: Podium, pipeline: str) -> Any:
    models = podium.models_by_name
    if pipeline == "asked":
        return models.chats["chat"].endpoints  # type: ignore[attr-defined]
    return models.rerank_apis["ranks"].endpoints


async def late(call: Any) -> None:
    """Wait for the end of a call whose deadline comes first: a partial answer, or on a busy machine not even that."""
    [answer] = await asyncio.gather(call, return_exceptions=True)
    if isinstance(answer, grpc.aio.AioRpcError):
        assert answer.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    else:
        assert answer.completion == ranking_pb2.COMPLETION_PARTIAL_DEADLINE


PIPELINES = [("asked", CHAT), ("remote", RERANK)]


@pytest.mark.parametrize(("pipeline", "path"), PIPELINES)
async def test_a_caller_who_goes_away_closes_the_call_to_the_endpoint_and_pays(
    tmp_path: Path, pipeline: str, path: str
) -> None:
    async with Naughty(hang, path=path) as endpoint, serving(tmp_path, endpoint) as (podium, served):
        call = served.rerank.Rerank(request(4, pipeline))
        await endpoint.someone_came.wait()
        assert podium.reranker.spent_on_cancelled == Usage()
        call.cancel()
        await endpoint.someone_left.wait()
        await until(lambda: not served.server.door.running)
        assert endpoint.left == 1
        assert (endpoints(podium, pipeline).outstanding, endpoints(podium, pipeline).waiting) == (0, 0)
        assert podium.reranker.running == 0
        spent = podium.reranker.spent_on_cancelled
        assert spent.calls == 1
        assert spent.prompt_tokens > 0
        assert spent.cost_nano_usd
        assert podium.models_by_name.watch("chat" if pipeline == "asked" else "ranks").running == 0


@pytest.mark.parametrize(("pipeline", "path"), PIPELINES)
async def test_the_deadline_of_a_call_ends_the_call_to_the_endpoint(tmp_path: Path, pipeline: str, path: str) -> None:
    async with Naughty(hang, path=path) as endpoint, serving(tmp_path, endpoint) as (podium, served):
        await late(served.rerank.Rerank(request(4, pipeline), timeout=4.0))
        await endpoint.someone_left.wait()
        await until(lambda: not served.server.door.running)
        assert endpoints(podium, pipeline).outstanding == 0


@pytest.mark.parametrize(("pipeline", "path"), PIPELINES)
async def test_who_waits_for_a_place_and_goes_away_leaves_the_queue(tmp_path: Path, pipeline: str, path: str) -> None:
    async with Naughty(hang, path=path) as endpoint, serving(tmp_path, endpoint, concurrency=1) as (podium, served):
        first = served.rerank.Rerank(request(4, pipeline))
        await endpoint.someone_came.wait()
        waiting = served.rerank.Rerank(request(4, pipeline))
        await until(lambda: endpoints(podium, pipeline).waiting == 1)
        waiting.cancel()
        await until(lambda: endpoints(podium, pipeline).waiting == 0)
        assert not first.done()
        assert len(endpoint.calls) == 1  # it was never sent
        await until(lambda: podium.reranker.running == 1)
        assert podium.reranker.spent_on_cancelled.calls == 0
        first.cancel()
        await endpoint.someone_left.wait()


async def test_an_endpoint_of_embeddings_is_not_waited_for_beyond_the_deadline(tmp_path: Path) -> None:
    async with Naughty(hang, path=EMBED) as endpoint, serving(tmp_path, endpoint) as (podium, served):
        await podium.models_by_name.encoders["embeds"].encoder()  # what is imported for it takes a while
        await late(served.rerank.Rerank(request(4, "embedded"), timeout=4.0))
        # Its thread is free again for the next request, well before the minute that it would wait for a reply.
        await endpoint.someone_left.wait()
        seat = podium.models_by_name.encoders["embeds"]
        await asyncio.wait_for(seat.queries.run(lambda: None), timeout=5)


async def test_every_item_of_a_batch_stops_with_its_stream(tmp_path: Path) -> None:
    async with Naughty(hang, path=CHAT) as endpoint, serving(tmp_path, endpoint, concurrency=2) as (podium, served):
        batch = served.rerank.BatchRerank()
        for item in range(5):
            await batch.write(rerank_service_pb2.BatchRerankRequest(item_id=f"i{item}", request=request(4, "asked")))
        await until(lambda: endpoint.under_way == 2 and endpoints(podium, "asked").waiting == 3)
        batch.cancel()
        await until(lambda: not served.server.door.running)
        await until(lambda: endpoint.under_way == 0)
        assert (endpoints(podium, "asked").outstanding, endpoints(podium, "asked").waiting) == (0, 0)
        assert podium.reranker.spent_on_cancelled.calls == 2
        assert podium.reranker.running == 0
