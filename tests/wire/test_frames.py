"""What no client of gRPC lets out, by hand: one caller's nonsense is nobody else's trouble."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncIterator

import grpc
import pytest

from podium.v1 import rerank_service_pb2
from podium_server.transport import logs
from tests.fuzz.http2 import DATA, HEADERS, SETTINGS, frame, literal
from tests.wire.serving import Stubs, refused, request, serving, standing

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.fixture
async def stubs() -> AsyncIterator[Stubs]:
    async with serving(standing()) as made:
        yield made


async def sent(address: str, path: bytes, *headers: tuple[bytes, bytes]) -> bytes:
    """Send one call with these headers over a connection of its own; return what came until it was quiet."""
    plain = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"h")]
    plain += [(b"content-type", b"application/grpc"), (b"te", b"trailers"), *headers]
    block = b"".join(literal(name, value) for name, value in plain)
    message = rerank_service_pb2.RerankRequest(query="q").SerializeToString()
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(_PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, 4, 1, block))
    writer.write(frame(DATA, 1, 1, b"\0" + len(message).to_bytes(4, "big") + message))
    came = b""
    try:
        async with asyncio.timeout(3):
            while b"grpc-status" not in came and (part := await reader.read(4096)):
                came += part
    finally:
        writer.close()
    return came


async def test_a_path_that_is_no_utf8_stops_nobody(stubs: Stubs) -> None:
    for path in (b"/\xff", b"/podium.v1.RerankService/\xed\xa0\x80", b"/nothing/There"):
        assert b"grpc-status" in await sent(stubs.address, path)
    assert len((await stubs.rerank.Rerank(request(2))).ranking) == 2


async def test_a_method_that_is_not_there_is_unimplemented(stubs: Stubs) -> None:
    for name in ("/podium.v1.RerankService/Nothing", "/nobody.Service/Rerank", "/grpc.health.v1.Health/List"):
        call = stubs.channel.unary_unary(name)(b"", timeout=5)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("name", ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"])
async def test_health_tells_of_a_message_that_it_cannot_read(stubs: Stubs, name: str) -> None:
    streams = name.endswith("Watch")
    call = (stubs.channel.unary_stream if streams else stubs.channel.unary_unary)(name)(b"v", timeout=5)
    error = await refused(call)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.info.reason == "INVALID_REQUEST"


async def test_reflection_tells_of_a_message_that_it_cannot_read(stubs: Stubs) -> None:
    call = stubs.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")(timeout=5)
    await call.write(b"\x81")
    error = await refused(call)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_log_has_no_header_that_cannot_be_read(stubs: Stubs) -> None:
    stream = io.StringIO()
    before = logging.root.handlers[:], logging.root.level
    logs.configure("INFO", stream)
    try:
        await sent(stubs.address, b"/podium.v1.RerankService/Rerank", (b"authorization", b"Bearer of-a-key\xff"))
    finally:
        logging.root.handlers[:], logging.root.level = before
    assert "a header of a call is no UTF-8" in stream.getvalue()
    assert "of-a-key" not in stream.getvalue()
