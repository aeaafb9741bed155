"""What Podium's own work adds to gRPC: Rerank of 100 documents × 600 bytes by the identity, beside a bare echo.

The echo is a grpc.aio server with one handler that parses the same request and sends the same answer, made beforehand.
Each server has a process of its own, and so has the client; the two are asked in turns, so that whatever else the
machine does falls on both.

    python bench/wire.py [--turns 8] [--calls 400]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc

from podium.v1 import document_pb2, rerank_service_pb2

DOCUMENTS = 100
BYTES = 600
IN_FLIGHT = 16
METHOD = "/podium.v1.RerankService/Rerank"
TICKS = os.sysconf("SC_CLK_TCK")


def request() -> rerank_service_pb2.RerankRequest:
    words = "the quick brown fox jumps over the lazy dog "
    documents = [
        document_pb2.Document(id=f"document-{i:04}", text=(f"{i} " + words * 20)[:BYTES]) for i in range(DOCUMENTS)
    ]
    return rerank_service_pb2.RerankRequest(query="which one is it?", documents=documents, pipeline="identity")


def reranker() -> Any:
    from podium_server.config import PipelineSection, StageSection
    from podium_server.errors import NotFound
    from podium_server.limits import Limits
    from podium_server.ranking.pipeline import build
    from podium_server.ranking.reranker import Reranker

    def nobody(_section: Any, model: str, _asks: Any) -> Any:
        raise NotFound("model", model)

    limits = Limits()
    identity = build("identity", PipelineSection(stages=(StageSection(strategy="first-stage"),)), nobody, where="here")
    return Reranker({"identity": identity}, "identity", nobody, limits)


async def serve_podium() -> None:
    from types import SimpleNamespace

    from podium_server import config
    from podium_server.transport.server import serve

    ranks = reranker()
    podium: Any = SimpleNamespace(
        config=config.load(None), limits=ranks.limits, reranker=ranks, searcher=None, collections=None, models=(),
        rerank_ready=True, index_ready=True,
    )  # fmt: skip
    await serve(podium, "127.0.0.1", 0, lambda address: print(address, flush=True))


async def serve_echo() -> None:
    from podium_server.transport.door import Call
    from podium_server.transport.rerank_service import RerankService

    ranks = reranker()
    answer = await RerankService(ranks, ranks.limits).rerank(request(), Call(METHOD, "id"))

    async def echo(_request: Any, _context: Any) -> Any:
        return answer

    server = grpc.aio.server()
    handler: Any = grpc.unary_unary_rpc_method_handler(
        echo,
        request_deserializer=rerank_service_pb2.RerankRequest.FromString,
        response_serializer=rerank_service_pb2.RerankResponse.SerializeToString,
    )
    service, method = METHOD[1:].split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


class Side:
    """One server, and what was measured of it."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.process = subprocess.Popen([sys.executable, __file__, mode], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        self.alone_ms: list[float] = []
        self.rates: list[float] = []
        self.cpu_ms: list[float] = []

    def connect(self) -> None:
        self.channel = grpc.aio.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)])
        self.call = self.channel.unary_unary(
            METHOD,
            request_serializer=rerank_service_pb2.RerankRequest.SerializeToString,
            response_deserializer=rerank_service_pb2.RerankResponse.FromString,
        )

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    async def alone(self, message: Any, calls: int) -> None:
        for _ in range(calls):
            began = time.perf_counter()
            await self.call(message)
            self.alone_ms.append((time.perf_counter() - began) * 1000)

    async def crowded(self, message: Any, calls: int) -> None:
        left = iter(range(calls))

        async def worker() -> None:
            for _ in left:
                await self.call(message)

        cpu_s, began = self.cpu_s(), time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
        self.rates.append(calls / (time.perf_counter() - began))
        self.cpu_ms.append((self.cpu_s() - cpu_s) / calls * 1000)


async def measure(turns: int, calls: int) -> None:
    sides = [Side("echo"), Side("podium")]
    message = request()
    try:
        for side in sides:
            side.connect()
            answer = await side.call(message)
            assert [ranked.input_index for ranked in answer.ranking] == list(range(DOCUMENTS))
            await side.alone(message, 100)
            await side.crowded(message, 200)
            side.alone_ms.clear(), side.rates.clear(), side.cpu_ms.clear()
        for _ in range(turns):
            for side in sides:
                await side.alone(message, calls // 2)
            for side in sides:
                await side.crowded(message, calls)
        for side in sides:
            await side.channel.close()
    finally:
        for side in sides:
            side.process.terminate()
            side.process.wait()
    echo, podium = sides
    rows = [
        ("p50 of one at a time, ms", *(statistics.median(side.alone_ms) for side in sides)),
        (f"requests/s at {IN_FLIGHT} in flight (median turn)", *(statistics.median(side.rates) for side in sides)),
        ("CPU of the server per request, ms", *(statistics.median(side.cpu_ms) for side in sides)),
    ]
    size = message.ByteSize()
    print(f"Rerank, {DOCUMENTS} documents × {BYTES} bytes, identity ({size:,} bytes); {turns} turns of {calls} calls")
    print(f"{'':45}{'echo':>10}{'podium':>10}{'ratio':>8}")
    for name, one, other in rows:
        print(f"{name:45}{one:10.3f}{other:10.3f}{other / one:8.2f}")
    added = statistics.median(podium.alone_ms) - statistics.median(echo.alone_ms)
    kept = statistics.median(podium.rates) / statistics.median(echo.rates)
    print(f"added at p50: {added:.3f} ms (aim: at most 0.5); kept of the rate: {kept:.0%} (aim: at least 60 %)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", nargs="?", choices=("measure", "echo", "podium"), default="measure")
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--calls", type=int, default=400)
    given = parser.parse_args()
    match given.mode:
        case "echo":
            asyncio.run(serve_echo())
        case "podium":
            asyncio.run(serve_podium())
        case _:
            asyncio.run(measure(given.turns, given.calls))


if __name__ == "__main__":
    main()
