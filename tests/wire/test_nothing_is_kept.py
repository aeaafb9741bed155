"""A call that ended in an error is gone with its message, and does not wait for the collector of cycles.

That comes after tens of thousands of objects (`Server` has it come seldom), each of which may hold a message of 64 MiB.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from podium.v1 import rerank_service_pb2
from podium_server.errors import BackendDown
from podium_server.judges.case import Case
from podium_server.judges.judge import Sink
from podium_server.rest.calls import Faulted
from podium_server.transport.door import Failed
from podium_strategies.oracle import Oracle
from podium_strategies.plan import Question
from tests.ranking.scripted import ScriptedJudge
from tests.rest.serving import resting
from tests.wire.serving import Stubs, request, serving, standing, until

Asking = Callable[[Stubs], Coroutine[Any, Any, object]]


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Nothing is collected within."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.collect()


class Down(ScriptedJudge):
    """Fails at once, and not within a group of tasks: Python's own keeps what it raises."""

    async def rule(self, case: Case, questions: Sequence[Question[Any]], sink: Sink) -> None:
        raise BackendDown("gone")


def kept(*kinds: type[BaseException]) -> int:
    return sum(isinstance(each, kinds) for each in gc.get_objects())


async def rerank(stubs: Stubs) -> None:
    await stubs.rerank.Rerank(request(2, "nope"))


async def stream(stubs: Stubs) -> None:
    async for _ in stubs.rerank.StreamRerank(rerank_service_pb2.StreamRerankRequest(request=request(2, "nope"))):
        pass


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("ask", [rerank, stream])
async def test_a_refused_call_is_not_kept(ask: Asking) -> None:
    async with serving(standing()) as stubs:
        for _ in range(3):
            with suppress(grpc.aio.AioRpcError):
                await ask(stubs)
        await until(lambda: not stubs.server.door.running)
        assert kept(Failed) == 0


@pytest.mark.usefixtures("uncollected")
async def test_a_call_whose_model_failed_is_not_kept() -> None:
    async with serving(standing(Down(Oracle.seeded(16, 1)))) as stubs:
        for _ in range(3):
            with suppress(grpc.aio.AioRpcError):
                await stubs.rerank.Rerank(request(3, "window"))
        await until(lambda: not stubs.server.door.running)
        assert kept(BackendDown) == 0


@pytest.mark.usefixtures("uncollected")
async def test_what_a_service_of_others_refused_is_not_kept() -> None:
    async with serving(standing()) as stubs:
        health: Any = health_pb2_grpc.HealthStub(stubs.channel)
        for _ in range(3):
            with suppress(grpc.aio.AioRpcError):
                await health.Check(health_pb2.HealthCheckRequest(service="nope"))
        # gRPC's loop has the last call until the next one comes.
        await until(lambda: kept(grpc.aio.AbortError) <= 1)


@pytest.mark.usefixtures("uncollected")
async def test_a_refused_request_of_http_is_not_kept() -> None:
    async with resting(standing()) as server:
        for _ in range(3):
            answer = await server.http.post("/v2/rerank", json={"model": "nope", "query": "q", "documents": ["a", "b"]})
            assert answer.status_code == 404
        assert kept(Failed, Faulted) == 0
