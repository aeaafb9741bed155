"""A real server on a real socket over a Podium whose judges a test writes, and clients that are not ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from podium.v1 import (
    catalog_service_pb2_grpc,
    document_pb2,
    index_service_pb2_grpc,
    ledger_pb2,
    rerank_service_pb2,
    rerank_service_pb2_grpc,
    search_service_pb2_grpc,
)
from podium_server import config
from podium_server.config import Config
from podium_server.errors import NotFound
from podium_server.limits import Limits
from podium_server.ranking.reranker import Reranker
from podium_server.transport.server import Server
from podium_strategies.oracle import Oracle
from tests.ranking.scripted import ScriptedJudge, pipeline

OWN_CONNECTIONS = [("grpc.use_local_subchannel_pool", 1)]
"""Ports come again, and gRPC would hold against a new server that an old one there has gone."""

WINDOW = {"strategy": "sliding-window", "model": "m", "size": 4, "stride": 2}


@dataclass
class Standing:
    """The parts of a Podium that a test needs."""

    reranker: Reranker
    config: Config = field(default_factory=lambda: config.load(None))
    limits: Limits = field(default_factory=Limits)
    searcher: Any = None
    collections: Any = None
    models: Sequence[Any] = ()
    rerank_ready: bool = True
    index_ready: bool = True


def standing(judge: Any = None, limits: Limits | None = None, **pipelines: Sequence[Mapping[str, Any]]) -> Standing:
    """Return a Podium with `identity` (the default), `window` and `points`, all asking one judge, the model m."""
    judges = {"m": judge or ScriptedJudge(Oracle.seeded(16, 1))}
    made = {
        "identity": [{"strategy": "first-stage"}],
        "window": [WINDOW],
        "points": [{"strategy": "pointwise", "model": "m"}],
        **pipelines,
    }
    built = [pipeline(judges, *stages, name=name) for name, stages in made.items()]
    limits = limits or Limits()

    def judge_of(_section: Any, model: str, _asks: Any) -> Any:
        if model not in judges:
            raise NotFound("model", model, tuple(judges))
        return judges[model]

    return Standing(Reranker({one.name: one for one in built}, "identity", judge_of, limits), limits=limits)


@dataclass
class Stubs:
    """Generated stubs over one channel."""

    channel: grpc.aio.Channel
    server: Server
    address: str

    def __post_init__(self) -> None:
        self.rerank = rerank_service_pb2_grpc.RerankServiceStub(self.channel)
        self.search = search_service_pb2_grpc.SearchServiceStub(self.channel)
        self.index = index_service_pb2_grpc.IndexServiceStub(self.channel)
        self.catalog = catalog_service_pb2_grpc.CatalogServiceStub(self.channel)


@asynccontextmanager
async def serving(podium: Any, *more: tuple[str, int]) -> AsyncIterator[Stubs]:
    """Serve within; `more` are options of the client's channel."""
    server = Server(podium)
    address = await server.start("127.0.0.1", 0)
    try:
        options = [("grpc.max_receive_message_length", -1), *OWN_CONNECTIONS, *more]
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            yield Stubs(channel, server, address)
    finally:
        await server.stop()


def request(n: int = 4, pipeline: str = "", **more: Any) -> rerank_service_pb2.RerankRequest:
    """Return a request of n documents named d0 …"""
    documents = [document_pb2.Document(id=f"d{i}", text=f"text {i}") for i in range(n)]
    return rerank_service_pb2.RerankRequest(query="q", documents=documents, pipeline=pipeline, **more)


@dataclass
class Refused:
    """An error of a call, taken apart."""

    code: grpc.StatusCode
    message: str
    status: Status
    trailers: dict[str, Any]

    def detail(self, kind: type[Any]) -> Any:
        """Return the detail of this kind."""
        for each in self.status.details:
            found = kind()
            if each.Unpack(found):
                return found
        raise AssertionError(f"no {kind.__name__} among {[each.type_url for each in self.status.details]}")

    @property
    def info(self) -> Any:
        return self.detail(error_details_pb2.ErrorInfo)

    @property
    def fields(self) -> list[str]:
        return [violation.field for violation in self.detail(error_details_pb2.BadRequest).field_violations]

    @property
    def ledger(self) -> ledger_pb2.Ledger:
        found: ledger_pb2.Ledger = self.detail(ledger_pb2.Ledger)
        return found


async def refused(call: Any) -> Refused:
    """Return the error that a call ends with."""

    async def end() -> None:
        if hasattr(call, "__await__"):
            await call
        else:
            async for _ in call:
                pass

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await end()
    return taken_apart(caught.value)


def taken_apart(error: grpc.aio.AioRpcError) -> Refused:
    trailers = dict(error.trailing_metadata() or ())
    details = trailers.get("grpc-status-details-bin", b"")
    assert isinstance(details, bytes)
    return Refused(error.code(), error.details() or "", Status.FromString(details), trailers)


async def until(condition: Callable[[], bool], within_s: float = 3.0) -> None:
    """Wait until something holds that nobody tells of."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  # it is the server's own state, and has no event
            await asyncio.sleep(0.01)


def ids(ranking: Any) -> list[str]:
    return [ranked.document_id for ranked in ranking]
