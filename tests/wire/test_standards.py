"""What clients that this project did not write find: health, reflection, request ids."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from io import StringIO

import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from podium.v1 import rerank_service_pb2
from podium_server.transport import logs
from podium_server.transport.server import SERVICES
from tests.wire.serving import OWN_CONNECTIONS, Stubs, ids, refused, request, serving, standing

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
NAMES = ["podium.v1.RerankService", "podium.v1.SearchService", "podium.v1.IndexService", "podium.v1.CatalogService"]


@pytest_asyncio.fixture
async def stubs() -> AsyncIterator[Stubs]:
    async with serving(standing()) as served:
        yield served


# --- health -----------------------------------------------------------------------------------------------------


async def health(stubs: Stubs, name: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(stubs.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
    return int(answer.status)


async def test_each_service_has_a_name_and_all_have_the_empty_one(stubs: Stubs) -> None:
    for name in ("", *NAMES):
        assert await health(stubs, name) == SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health(stubs, "podium.v1.Nothing")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_health_follows_what_is_ready() -> None:
    podium = standing()
    podium.rerank_ready = podium.index_ready = False
    async with serving(podium) as stubs:
        assert [await health(stubs, name) for name in NAMES] == [NOT_SERVING] * 3 + [SERVING]
        assert await health(stubs) == NOT_SERVING
        podium.rerank_ready = True
        await until(stubs, "podium.v1.RerankService", SERVING)
        assert await health(stubs, "podium.v1.SearchService") == NOT_SERVING
        podium.index_ready = True
        await until(stubs, "", SERVING)


async def until(stubs: Stubs, name: str, status: int) -> None:
    async with asyncio.timeout(5):
        while await health(stubs, name) != status:  # noqa: ASYNC110  # asked over the wire, as any client would
            await asyncio.sleep(0.05)


async def test_watchers_are_told_of_the_drain(stubs: Stubs) -> None:
    watch = health_pb2_grpc.HealthStub(stubs.channel).Watch(health_pb2.HealthCheckRequest(service=NAMES[0]))
    assert (await watch.read()).status == SERVING
    await stubs.server.drain(1.0)
    assert (await watch.read()).status == NOT_SERVING
    error = await refused(stubs.rerank.Rerank(request(2)))
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert error.info.reason == "UNAVAILABLE"


# --- reflection -------------------------------------------------------------------------------------------------


def test_a_client_without_proto_files_can_call(tmp_path: object) -> None:
    """What grpcurl does: names, descriptions, a message built from them, a call."""

    async def serve(ready: asyncio.Future[str], stop: asyncio.Event) -> None:
        async with serving(standing()) as stubs:
            ready.set_result(stubs.address)
            await stop.wait()

    def ask(address: str) -> None:
        with grpc.insecure_channel(address, options=OWN_CONNECTIONS) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            listed = set(database.get_services())
            assert {*NAMES, "grpc.health.v1.Health"} <= listed
            assert {"grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"} <= listed
            pool = DescriptorPool(database)
            for name in listed:
                assert pool.FindServiceByName(name).full_name == name
            method = pool.FindServiceByName(NAMES[0]).methods_by_name["Rerank"]
            message = GetMessageClass(method.input_type)(query="q")
            message.documents.add(id="a", text="t")
            call = channel.unary_unary(
                f"/{NAMES[0]}/Rerank",
                request_serializer=lambda given: given.SerializeToString(),
                response_deserializer=GetMessageClass(method.output_type).FromString,
            )
            assert [ranked.document_id for ranked in call(message).ranking] == ["a"]

    async def main() -> None:
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        stop = asyncio.Event()
        task = asyncio.create_task(serve(ready, stop))
        try:
            await asyncio.to_thread(ask, await ready)
        finally:
            stop.set()
            await task

    asyncio.run(main())


async def test_both_versions_answer_the_same(stubs: Stubs) -> None:
    request_ = reflection_pb2.ServerReflectionRequest(file_containing_symbol=NAMES[1])
    answers = []
    for version in ("v1", "v1alpha"):
        call = stubs.channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")()
        await call.write(request_.SerializeToString())
        answer = reflection_pb2.ServerReflectionResponse.FromString(await call.read())
        call.cancel()
        answers.append(answer)
        names = [
            FileDescriptorProto.FromString(file).name for file in answer.file_descriptor_response.file_descriptor_proto
        ]
        assert "podium/v1/search_service.proto" in names
        assert "podium/v1/document.proto" in names
    assert answers[0] == answers[1]


async def nothing() -> AsyncIterator[bytes]:
    for message in ():
        yield message


async def test_every_method_of_the_contract_is_served(stubs: Stubs) -> None:
    for service in SERVICES:
        for method in service.methods:
            kind = {
                (False, False): stubs.channel.unary_unary,
                (False, True): stubs.channel.unary_stream,
                (True, False): stubs.channel.stream_unary,
                (True, True): stubs.channel.stream_stream,
            }[method.client_streaming, method.server_streaming]
            call = kind(f"/{service.full_name}/{method.name}")(nothing() if method.client_streaming else b"")
            assert await call.code() is not grpc.StatusCode.UNIMPLEMENTED


# --- request ids ------------------------------------------------------------------------------------------------


def id_in(metadata: object) -> str | None:
    return dict(metadata).get("x-request-id")  # type: ignore[call-overload]  # grpc's own pairs


async def test_a_request_id_comes_back_before_and_behind_the_answer(stubs: Stubs) -> None:
    call = stubs.rerank.Rerank(request(2), metadata=[("x-request-id", "my id/7")])
    await call
    assert id_in(await call.initial_metadata()) == id_in(await call.trailing_metadata()) == "my id/7"


@pytest.mark.parametrize("given", [None, "x" * 129, ""])
async def test_one_is_made_up_where_none_can_be_used(stubs: Stubs, given: str | None) -> None:
    seen = set()
    for _ in range(2):
        call = stubs.rerank.Rerank(request(2), metadata=None if given is None else [("x-request-id", given)])
        await call
        seen.add(id_in(await call.trailing_metadata()))
    assert len(seen) == 2
    assert all(re.fullmatch("[0-9a-f]{32}", str(one)) for one in seen)


async def test_a_stream_tells_its_id_at_once(stubs: Stubs) -> None:
    call = stubs.rerank.BatchRerank(metadata=[("x-request-id", "b")])
    assert id_in(await call.initial_metadata()) == "b"
    await call.done_writing()


async def test_an_error_has_it_in_its_details_and_inside_a_batch_too(stubs: Stubs) -> None:
    error = await refused(stubs.rerank.Rerank(request(0), metadata=[("x-request-id", "r7")]))
    assert error.info.metadata["request_id"] == error.trailers["x-request-id"] == "r7"
    call = stubs.rerank.BatchRerank(metadata=[("x-request-id", "r8")])
    await call.write(rerank_service_pb2.BatchRerankRequest(item_id="a", request=request(0)))
    await call.done_writing()
    (answer,) = [answer async for answer in call]
    assert "r8" in str(answer.error)


async def test_the_log_has_the_request_and_never_what_it_says(stubs: Stubs) -> None:
    written = StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logs.Lines())
    handler.addFilter(logs.Correlated())
    root = logging.getLogger("podium_server")
    root.addHandler(handler)
    level = root.level
    root.setLevel(logging.DEBUG)
    try:
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        message = request(2)
        message.query, message.documents[0].text = "s3cret query", "s3cret text"
        metadata = [("x-request-id", "r9"), ("traceparent", trace)]
        assert ids((await stubs.rerank.Rerank(message, metadata=metadata)).ranking) == ["d0", "d1"]
        message.documents[0].id = "d1"
        await refused(stubs.rerank.Rerank(message, metadata=metadata))
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    lines = [line for line in written.getvalue().splitlines() if "/podium.v1.RerankService/Rerank" in line]
    assert len(lines) == 2
    assert all("request_id=r9" in line and "trace_id=4bf92f3577b34da6a3ce929d0e0e4736" in line for line in lines)
    assert "code=OK" in lines[0]
    assert "code=INVALID_ARGUMENT" in lines[1]
    assert "s3cret" not in written.getvalue()
