"""How throughput grows with processes: Rerank of 100 documents over gRPC by servers of one and of several workers.

Each server has the same processors: one process with all of them as threads, and N workers with their share each. Two
pipelines are asked: `recall`, which is the server itself (one Python process is one core's worth of it, however many
threads it has), and `fast`, which is the embedded encoder. Servers are asked in turns, so that whatever else the
machine does falls on all of them; the clients are processes of their own, as many as there are workers at most.

    python bench/workers.py [--workers 1 2] [--turns 5] [--seconds 4] [--connections 8] [--documents 100]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from podium.v1 import document_pb2, rerank_service_pb2

BYTES = 600
METHOD = "/podium.v1.RerankService/Rerank"
PIPELINES = ("recall", "fast")
# No memory for vectors: the clients' texts come again, and what is measured is the encoder.
CONFIG = """
[models.minilm]
backend = "openvino"
model = "all-minilm-l6-v2"
cache_mib = 0
"""
WORDS = "the quick brown fox jumps over the lazy dog while seven wizards quietly vex a jumping frog "


def request(number: int, pipeline: str, documents_number: int) -> bytes:
    documents = [
        document_pb2.Document(id=f"document-{i:04}", text=(f"{number} {i} " + WORDS * 20)[:BYTES])
        for i in range(documents_number)
    ]
    message = rerank_service_pb2.RerankRequest(query=f"which one is {number}?", documents=documents, pipeline=pipeline)
    return message.SerializeToString()


async def ask(address: str, pipeline: str, documents: int, connections: int, seconds: float) -> int:
    """Keep every connection busy with one call after another; return how many were answered in time."""
    channels = [
        grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(connections)
    ]
    # Made beforehand, and as bytes: a client that serializes takes the server's processors away.
    asked = [request(number, pipeline, documents) for number in range(64)]
    numbers = itertools.count(os.getpid())
    done = 0

    async def keep_busy(channel: grpc.aio.Channel) -> None:
        nonlocal done
        call: Any = channel.unary_unary(METHOD)
        while time.monotonic() < ends:
            await call(asked[next(numbers) % len(asked)])
            done += time.monotonic() < ends

    try:
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        ends = time.monotonic() + seconds
        await asyncio.gather(*map(keep_busy, channels))
    finally:
        for channel in channels:
            await channel.close()
    return done


@dataclass
class Side:
    """One server, and what was measured of it, in requests a second by pipeline."""

    name: str
    arguments: tuple[str, ...]
    rates: dict[str, list[float]] = field(default_factory=lambda: {pipeline: [] for pipeline in PIPELINES})

    def start(self, folder: Path) -> None:
        (folder / "podium.toml").write_text(CONFIG)
        command = [sys.executable, "-m", "podium_server", "serve", "--port", "0", "--config", "podium.toml"]
        data = folder / self.name.replace(" ", "-")
        self.process = subprocess.Popen(
            [*command, "--data-dir", str(data), *self.arguments], stdout=subprocess.PIPE, text=True, cwd=folder
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            raise SystemExit(f"{self.name} did not start")
        self.address = line.removeprefix("listening on ").strip()

    def measure(self, pipeline: str, clients: int, seconds: float, given: argparse.Namespace) -> float:
        """Return requests a second, asked by several processes at once."""
        asked = (pipeline, given.documents, max(1, given.connections // clients), seconds)
        command = [sys.executable, __file__, "--ask", self.address, *map(str, asked)]
        asking = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(clients)]
        return sum(int(one.communicate()[0]) for one in asking) / seconds


def measure(given: argparse.Namespace) -> None:
    sides = [
        Side("one process" if number == 1 else f"{number} workers", ("--workers", str(number)))
        for number in given.workers
    ]
    clients = min(max(given.workers), os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as folder:
        try:
            for side in sides:
                side.start(Path(folder))
            for pipeline, side in itertools.product(PIPELINES, sides):
                side.measure(pipeline, clients, given.seconds / 2, given)
            for _, pipeline, side in itertools.product(range(given.turns), PIPELINES, sides):
                side.rates[pipeline].append(side.measure(pipeline, clients, given.seconds, given))
        finally:
            for side in sides:
                if hasattr(side, "process"):
                    side.process.terminate()
                    side.process.wait()
    show(sides, given, clients)


def show(sides: list[Side], given: argparse.Namespace, clients: int) -> None:
    print(
        f"Rerank, {given.documents} documents × {BYTES} bytes; {given.connections} connections of {clients} clients; "
        f"median of {given.turns} turns of {given.seconds:g} s; {os.cpu_count()} processors, clients among them"
    )
    print(f"{'requests/s':14}" + "".join(f"{pipeline:>12}{'×':>7}" for pipeline in PIPELINES))
    for side in sides:
        cells = ""
        for pipeline in PIPELINES:
            rate, first = (statistics.median(one.rates[pipeline]) for one in (side, sides[0]))
            cells += f"{rate:12.1f}{rate / first if first else float('nan'):7.2f}"
        print(f"{side.name:14}{cells}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--ask", nargs=5, help=argparse.SUPPRESS)  # be a client
    given = parser.parse_args()
    if given.ask:
        address, pipeline, documents, connections, seconds = given.ask
        print(asyncio.run(ask(address, pipeline, int(documents), int(connections), float(seconds))))
    else:
        measure(given)


if __name__ == "__main__":
    main()
