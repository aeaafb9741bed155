"""Whatever bytes a caller sends, the answer is never INTERNAL or UNKNOWN: those are our faults, and there are none."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podium.v1 import catalog_service_pb2, index_service_pb2, rerank_service_pb2, search_service_pb2
from podium_server.transport.server import Server
from tests.wire.serving import OWN_CONNECTIONS, request, standing

OUR_FAULT = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
CPP = FieldDescriptor
NAMES = [
    "",
    "window",
    "points",
    "identity",
    "first-stage",
    "sliding-window",
    "pointwise",
    "fusion",
    "m",
    "d0",
    "scripted",
]
STRINGS = st.sampled_from(NAMES) | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
INT32 = st.sampled_from([0, 1, -1, 2, 99, 2**31 - 1, -(2**31)]) | st.integers(-5, 30)
INT64 = INT32 | st.sampled_from([2**63 - 1, -(2**63)])
DOUBLES = st.sampled_from([0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e308, 5e-324, 0.1])
PLAIN = {
    CPP.CPPTYPE_STRING: STRINGS,
    CPP.CPPTYPE_INT32: INT32,
    CPP.CPPTYPE_ENUM: INT32,
    CPP.CPPTYPE_INT64: INT64,
    CPP.CPPTYPE_DOUBLE: DOUBLES,
    CPP.CPPTYPE_BOOL: st.booleans(),
}


def mutate(message: Message, draw: Any, depth: int = 0) -> None:
    """Set some fields of a message to what a caller may send, by its description alone."""
    for field in draw(st.lists(st.sampled_from(list(message.DESCRIPTOR.fields) or [None]), max_size=4)):
        if field is None:
            return
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entry = getattr(message, field.name)
            key = draw(STRINGS)
            if field.message_type.fields_by_name["value"].message_type is None:
                entry[key] = draw(DOUBLES)
            elif depth < 5:
                mutate(entry[key], draw, depth + 1)
        elif field.message_type is not None:
            if depth < 5:
                inner = getattr(message, field.name)
                if field.is_repeated:
                    for _ in range(draw(st.integers(1, 3))):
                        mutate(inner.add(), draw, depth + 1)
                else:
                    inner.SetInParent()
                    mutate(inner, draw, depth + 1)
        elif field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(PLAIN[field.cpp_type], max_size=3)))
        else:
            setattr(message, field.name, draw(PLAIN[field.cpp_type]))


class Loop:
    """A server and a channel on one loop that lives as long as the examples of a test."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.server, self.channel = self.runner.run(self._start())

    async def _start(self) -> tuple[Server, grpc.aio.Channel]:
        server = Server(standing())
        return server, grpc.aio.insecure_channel(await server.start("127.0.0.1", 0), options=OWN_CONNECTIONS)

    def code(self, method: str, data: bytes, *, stream: bool = False) -> grpc.StatusCode:
        async def call() -> grpc.StatusCode:
            kind = self.channel.unary_stream if stream else self.channel.unary_unary
            sent = kind(f"/podium.v1.{method}")(data, timeout=10)
            # The code of a stream comes behind its messages.
            with contextlib.suppress(grpc.aio.AioRpcError):
                while stream and await sent.read() is not grpc.aio.EOF:
                    pass
            return await sent.code()

        return self.runner.run(call())

    def close(self) -> None:
        async def stop() -> None:
            await self.channel.close()
            await self.server.stop()

        self.runner.run(stop())
        self.runner.close()


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


MANY = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
FEWER = settings(MANY, max_examples=100)


@MANY
@given(data=st.data())
def test_rerank_requests(loop: Loop, data: st.DataObject) -> None:
    message = request(data.draw(st.integers(0, 6)), data.draw(st.sampled_from(["", "window", "points"])))
    mutate(message, data.draw)
    assert loop.code("RerankService/Rerank", message.SerializeToString()) not in OUR_FAULT


@FEWER
@given(data=st.data())
def test_inline_pipelines(loop: Loop, data: st.DataObject) -> None:
    message = request(5)
    for _ in range(data.draw(st.integers(1, 3))):
        stage = message.inline.stages.add(
            strategy=data.draw(
                st.sampled_from(["fusion", "sliding-window", "pointwise", "mmr", "cascade", "first-stage"])
            ),
            model=data.draw(st.sampled_from(["m", ""])),
        )
        keys = [
            "size",
            "stride",
            "of",
            "base",
            "models",
            "scoring",
            "weight",
            "method",
            "k",
            "balance",
            "name",
            "stages",
        ]
        leaf = st.none() | st.booleans() | DOUBLES | STRINGS | INT32.map(float)
        value = st.recursive(
            leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRINGS, inner, max_size=3)
        )
        voices = st.lists(
            st.fixed_dictionaries({"strategy": STRINGS}, optional={"model": STRINGS, "weight": leaf}), max_size=3
        )
        for key in data.draw(st.lists(st.sampled_from(keys) | STRINGS, max_size=4)):
            stage.options.update({key: data.draw(voices if key == "of" else value)})
        mutate(stage, data.draw)
    assert loop.code("RerankService/Rerank", message.SerializeToString()) not in OUR_FAULT


@MANY
@given(data=st.binary(max_size=200))
def test_bytes(loop: Loop, data: bytes) -> None:
    assert loop.code("RerankService/Rerank", data) not in OUR_FAULT


@FEWER
@given(data=st.data())
def test_flipped_bits(loop: Loop, data: st.DataObject) -> None:
    sent = bytearray(request(3, "window").SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    assert loop.code("RerankService/Rerank", bytes(sent)) not in OUR_FAULT


OTHERS: list[tuple[str, type[Message], bool]] = [
    ("RerankService/Estimate", rerank_service_pb2.EstimateRequest, False),
    ("RerankService/Compare", rerank_service_pb2.CompareRequest, False),
    ("RerankService/StreamRerank", rerank_service_pb2.StreamRerankRequest, True),
    ("SearchService/Search", search_service_pb2.SearchRequest, False),
    ("IndexService/CreateCollection", index_service_pb2.CreateCollectionRequest, False),
    ("CatalogService/ListPipelines", catalog_service_pb2.ListPipelinesRequest, False),
    ("CatalogService/ListStrategies", catalog_service_pb2.ListStrategiesRequest, False),
    ("CatalogService/ListModels", catalog_service_pb2.ListModelsRequest, False),
]


@pytest.mark.parametrize(("method", "kind", "stream"), OTHERS, ids=[name for name, _, _ in OTHERS])
@FEWER
@given(data=st.data())
def test_other_methods(loop: Loop, method: str, kind: type[Message], stream: bool, data: st.DataObject) -> None:
    message: Any = kind()
    if "request" in message.DESCRIPTOR.fields_by_name and data.draw(st.booleans()):
        message.request.CopyFrom(request(3))
    mutate(message, data.draw)
    assert loop.code(method, message.SerializeToString(), stream=stream) not in OUR_FAULT
