"""What keys, quotas, metrics and traces add to the identity Rerank: servers side by side, asked in turns.

Each server is a process of its own, composed as `podium serve` composes it. The documents are few and short, so that
what is added is not lost in what parsing costs.

    python bench/overhead.py [--turns 10] [--calls 500] [--documents 10]

Rows: `off` has none of it; `access` has keys and quotas; `metrics` has metrics; `both` these two; `sampled` has spans
of every tenth call beside them, and `traced` of every call, sent to a collector in a process of its own. The aim: all
of it adds at most 0.3 ms at p50.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc

from podium.v1 import document_pb2, rerank_service_pb2

METHOD = "/podium.v1.RerankService/Rerank"
KINDS = ("off", "access", "metrics", "both", "sampled", "traced")
TRACED = {"sampled": 0.1, "traced": 1.0}
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
QUOTAS = [
    {"per": "minute", "requests": 100_000_000, "tokens": 10**15},
    {"per": "month", "requests": 10**12, "pairs": 10**15, "usd": 1e6},
]


async def collect() -> None:
    """Answer OTLP as a collector does, and keep nothing. Prints its address."""
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

    async def export(_: Any, __: Any) -> Any:
        return trace_service_pb2.ExportTraceServiceResponse()

    service, method = EXPORT.strip("/").split("/")
    handler = grpc.unary_unary_rpc_method_handler(
        export,
        request_deserializer=trace_service_pb2.ExportTraceServiceRequest.FromString,
        response_serializer=trace_service_pb2.ExportTraceServiceResponse.SerializeToString,
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


async def serve(kind: str, folder: Path, collector: str) -> None:
    from podium_server import config
    from podium_server.access.access import key_file
    from podium_server.compose import Podium
    from podium_server.transport.server import serve as serving

    guarded, seen = kind not in ("off", "metrics"), kind not in ("off", "access")
    given: dict[str, Any] = {
        "server": {"data_dir": str(folder), "default_pipeline": "plain"},
        "pipelines": {"plain": {"stages": [{"strategy": "first-stage"}]}},
        "access": {"keys": guarded},
        "tenants": {"bench": {"quotas": QUOTAS}},
    }
    if seen:
        given["telemetry"] = {"metrics_port": 0}
    if kind in TRACED:
        given["telemetry"] |= {"traces_endpoint": f"http://{collector}", "traces_sample": TRACED[kind]}
    configuration = config.parse(given, where="here")
    key = key_file(configuration, folder).create("bench")[0] if guarded else ""
    podium = Podium(configuration, data_dir=folder, collections=False, serving=True)
    await podium.start()
    try:
        await serving(podium.served, "127.0.0.1", 0, lambda at: print(at, key, flush=True), guards=podium.call_guards)
    finally:
        await podium.aclose()


def collecting() -> tuple[subprocess.Popen[str], str]:
    """A collector in a process of its own, and its address."""
    process = subprocess.Popen([sys.executable, __file__, "--collect"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


class Side:
    """One server, and how long its calls took."""

    def __init__(self, kind: str, collector: str) -> None:
        self.kind = kind
        self.folder = tempfile.TemporaryDirectory(prefix="podium-overhead-")
        command = [sys.executable, __file__, "--serve", kind, "--folder", self.folder.name]
        command += ["--collector", collector]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        address, *key = self.process.stdout.readline().split()
        self.metadata = [("authorization", f"Bearer {key[0]}")] if key else []
        self.address = address
        self.took_ms: list[float] = []
        self.medians_ms: list[float] = []

    def connect(self) -> None:
        self.channel = grpc.aio.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)])
        self.call = self.channel.unary_unary(
            METHOD,
            request_serializer=rerank_service_pb2.RerankRequest.SerializeToString,
            response_deserializer=rerank_service_pb2.RerankResponse.FromString,
        )

    async def turn(self, message: Any, calls: int) -> None:
        took = []
        for _ in range(calls):
            began = time.perf_counter()
            await self.call(message, metadata=self.metadata)
            took.append((time.perf_counter() - began) * 1000)
        self.took_ms += took
        self.medians_ms.append(statistics.median(took))

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()


async def measure(turns: int, calls: int, documents: int) -> None:
    sides: list[Side] = []
    collector, collector_at = collecting()
    message = rerank_service_pb2.RerankRequest(
        query="which one is it?",
        documents=[document_pb2.Document(id=f"d{i}", text="the quick brown fox") for i in range(documents)],
    )
    try:
        for kind in KINDS:
            sides.append(Side(kind, collector_at))
            sides[-1].connect()
            await sides[-1].turn(message, max(20, calls // 4))
            sides[-1].took_ms.clear(), sides[-1].medians_ms.clear()
        for turn in range(turns):
            # In another order each time, so that nobody always follows the same one.
            for side in sides[turn % len(sides) :] + sides[: turn % len(sides)]:
                await side.turn(message, calls)
        for side in sides:
            await side.channel.close()
    finally:
        for side in sides:
            side.stop()
        collector.terminate()
        collector.wait()
    off = sides[0]
    print(f"identity Rerank of {documents} short documents; {turns} turns of {calls} calls, one at a time")
    print(f"{'':12}{'p50 ms':>9}{'p90 ms':>9}{'added at p50, ms':>19}{'(median of turns)':>20}")
    for side in sides:
        p50, p90 = statistics.median(side.took_ms), statistics.quantiles(side.took_ms, n=10)[-1]
        added = p50 - statistics.median(off.took_ms)
        by_turn = statistics.median(a - b for a, b in zip(side.medians_ms, off.medians_ms, strict=True))
        print(f"{side.kind:12}{p50:9.3f}{p90:9.3f}{added:19.3f}{by_turn:20.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--documents", type=int, default=10)
    parser.add_argument("--serve", choices=KINDS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--collector", default="")
    parser.add_argument("--collect", action="store_true")
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve(given.serve, given.folder, given.collector))
    elif given.collect:
        asyncio.run(collect())
    else:
        asyncio.run(measure(given.turns, given.calls, given.documents))


if __name__ == "__main__":
    main()
