"""SIGTERM to a real process: running calls end, new ones get UNAVAILABLE, health says so, and it ends by itself."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from podium.v1 import rerank_service_pb2, rerank_service_pb2_grpc
from podium_server.access.sections import IN_SO_MANY_WORDS
from podium_server.config import load
from podium_server.errors import ConfigInvalid
from podium_server.transport.server import Server, serve
from tests.wire.serving import OWN_CONNECTIONS, refused, request, standing

ROOT = Path(__file__).parents[2]
Process = subprocess.Popen[str]


@pytest.fixture
def process() -> Iterator[Process]:
    command = [sys.executable, "-m", "tests.faults.drained_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as started:
        try:
            yield started
        finally:
            started.kill()


def address_of(process: Process) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ended(process: Process, within_s: float) -> int:
    return process.wait(timeout=within_s)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_running_calls_end_and_new_ones_are_refused(process: Process, number: signal.Signals) -> None:
    async with grpc.aio.insecure_channel(address_of(process), options=OWN_CONNECTIONS) as channel:
        stub = rerank_service_pb2_grpc.RerankServiceStub(channel)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        unary = stub.Rerank(request(4, "points"))
        batch = stub.BatchRerank()
        for i in range(3):
            await batch.write(rerank_service_pb2.BatchRerankRequest(item_id=f"i{i}", request=request(4, "points")))
        await batch.done_writing()
        await asyncio.sleep(0.3)
        process.send_signal(number)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        error = await refused(stub.Rerank(request(2)))
        assert error.code is grpc.StatusCode.UNAVAILABLE
        assert error.info.reason == "UNAVAILABLE"
        assert len((await unary).ranking) == 4
        assert sorted([answer.item_id async for answer in batch]) == ["i0", "i1", "i2"]
        assert await asyncio.to_thread(ended, process, 3.0) == 0
    assert process.stdout is not None
    assert process.stdout.read() == "stopped\n"
    assert process.stderr is not None
    assert process.stderr.read() == ""


async def test_a_call_that_does_not_end_is_cancelled_when_the_time_is_over(process: Process) -> None:
    async with grpc.aio.insecure_channel(address_of(process), options=OWN_CONNECTIONS) as channel:
        stub = rerank_service_pb2_grpc.RerankServiceStub(channel)
        running = stub.Rerank(request(16, "window"))
        await asyncio.sleep(0.3)
        process.terminate()
        began = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert await asyncio.to_thread(ended, process, 3.0) == 0
        assert 2.5 < time.monotonic() - began < 6


async def test_a_second_signal_stops_at_once(process: Process) -> None:
    async with grpc.aio.insecure_channel(address_of(process), options=OWN_CONNECTIONS) as channel:
        running = rerank_service_pb2_grpc.RerankServiceStub(channel).Rerank(request(16, "window"))
        await asyncio.sleep(0.3)
        process.terminate()
        await asyncio.sleep(0.3)
        began = time.monotonic()
        process.terminate()
        with pytest.raises(grpc.aio.AioRpcError):
            await running
        assert await asyncio.to_thread(ended, process, 3.0) == 0
        assert time.monotonic() - began < 2.5


def test_an_idle_server_stops_soon(process: Process) -> None:
    address_of(process)
    began = time.monotonic()
    process.terminate()
    assert ended(process, 5.0) == 0
    assert time.monotonic() - began < 2.5


def test_a_port_in_use_is_said_plainly() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        command = [sys.executable, "-m", "tests.faults.drained_server", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert f"127.0.0.1:{port}" in done.stderr
    assert "already in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7"])
async def test_an_address_that_is_not_ours(host: str) -> None:
    podium = standing()
    podium.config = podium.config.model_copy(
        update={"server": podium.config.server.model_copy(update={"insecure": IN_SO_MANY_WORDS})}
    )
    with pytest.raises(ConfigInvalid, match="cannot listen on"):
        await serve(podium, host, 0, lambda _: None)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::1"])
async def test_any_way_to_name_an_address(host: str) -> None:
    server = Server(standing())
    try:
        address = await server.start(host, 0)
    except ConfigInvalid:
        pytest.skip(f"this machine has no {host}")
    try:
        assert not address.endswith(":0")
        async with grpc.aio.insecure_channel(address, options=OWN_CONNECTIONS) as channel:
            stub = rerank_service_pb2_grpc.RerankServiceStub(channel)
            assert len((await stub.Rerank(request(2))).ranking) == 2
    finally:
        await server.stop()


def test_the_time_to_drain_is_configuration() -> None:
    assert load(None).limits.drain_s > 0
