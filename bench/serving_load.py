"""The clients of bench/serving.py, in a process of their own: open loops (arrivals at given times, whatever is still
unanswered) and closed ones (so many callers, each with one request at a time).

    python bench/serving_load.py TARGET LISTS KINDS

Each line of standard input is a task, and is answered by one line: what became of each request. Requests are bytes
before the first task begins, and answers are looked at after the last has come, so that this process takes as little
of the server's processors as it can. Times count from when a request was meant to be sent, not from when it was: a
client that falls behind does not make the server look better.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import sys
import time
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import grpc

from podium.v1 import document_pb2, ranking_pb2, rerank_service_pb2

METHOD = "/podium.v1.RerankService/Rerank"
CONNECTIONS = 4
"""Callers are not one process in the world; a huge request's bytes are in nobody's way but its own connection's."""
_LONGEST_REST_S = 2.0


@dataclass(frozen=True)
class Kind:
    """Requests of one size.

    Args:
        documents: of each.
        variants: how many different ones are made, to be sent in turns.
        characters: cut documents to so many; None leaves them whole.
        timeout_s: the deadline of each, from when it was meant to be sent.

    """

    documents: int
    variants: int
    timeout_s: float
    characters: int | None = None


@dataclass
class Sent:
    """What became of one request. Times are seconds from the beginning of its task."""

    kind: str
    meant_at: float
    late_s: float = 0.0
    """Sent so much later than it was meant to be."""
    took_s: float = 0.0
    """From when it was meant to be sent."""
    code: str = ""
    retry_s: float | None = None
    """The hint that came with a refusal."""
    answer: Any = field(default=None, repr=False)

    @property
    def ended_at(self) -> float:
        return self.meant_at + self.took_s


def texts_of(lists: list[dict[str, Any]], kind: Kind) -> list[tuple[str, list[str]]]:
    """Return queries and documents, the same ones each time.

    Documents are dealt out of all lists, so that requests of one size cost about the same: with each query's own
    hundred, the twenty answers of one rate would differ from those of another by the length of their documents.
    """
    chance = random.Random(f"{kind.documents} {kind.characters}")
    passages = [passage[: kind.characters] for one in lists for passage in one["passages"]]
    queries = cycle(one["query"] for one in lists)
    return [
        (f"{query} {number}", [chance.choice(passages) for _ in range(kind.documents)])
        for number, query in zip(range(kind.variants), queries, strict=False)
    ]


def message(query: str, texts: list[str]) -> bytes:
    documents = [document_pb2.Document(id=str(i), text=text) for i, text in enumerate(texts)]
    return rerank_service_pb2.RerankRequest(query=query, documents=documents, top_n=10).SerializeToString()


class Clients:
    def __init__(self, target: str, lists: list[dict[str, Any]], kinds: dict[str, Kind]) -> None:
        self.kinds = kinds
        self.requests = {name: cycle([message(*one) for one in texts_of(lists, kind)]) for name, kind in kinds.items()}
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 32 << 20)]
        self.channels = [grpc.aio.insecure_channel(target, options=options) for _ in range(CONNECTIONS)]
        self.calls = cycle([channel.unary_unary(METHOD) for channel in self.channels])
        self.began = 0.0

    async def connected(self) -> None:
        await asyncio.gather(*(channel.channel_ready() for channel in self.channels))

    async def one(self, kind: str, meant_at: float) -> Sent:
        sent = Sent(kind, meant_at)
        request, call = next(self.requests[kind]), next(self.calls)
        sent.late_s = time.monotonic() - self.began - meant_at
        try:
            sent.answer = await call(request, timeout=max(0.001, self.kinds[kind].timeout_s - sent.late_s))
        except grpc.aio.AioRpcError as error:
            sent.took_s = time.monotonic() - self.began - meant_at
            sent.code = error.code().name
            hint = dict(error.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
            sent.retry_s = None if hint is None else int(hint) / 1000
        else:
            sent.took_s = time.monotonic() - self.began - meant_at
        return sent

    async def open_loop(self, arrivals: list[tuple[float, str]]) -> list[Sent]:
        tasks = []
        self.began = time.monotonic() + 0.05
        for meant_at, kind in arrivals:
            await asyncio.sleep(self.began + meant_at - time.monotonic())
            tasks.append(asyncio.create_task(self.one(kind, meant_at)))
        return list(await asyncio.gather(*tasks))

    async def closed_loop(self, kind: str, callers: int, seconds: float) -> list[Sent]:
        self.began = time.monotonic()
        done: list[Sent] = []

        async def caller() -> None:
            while (now := time.monotonic() - self.began) < seconds:
                done.append(await self.one(kind, now))
                if done[-1].code:
                    await asyncio.sleep(min(done[-1].retry_s or 0.1, _LONGEST_REST_S))

        await asyncio.gather(*(caller() for _ in range(callers)))
        return done


def told(sent: list[Sent]) -> str:
    """Return one line of JSON; what was answered is complete, or has the name of what it is instead as its code."""
    for one in sent:
        if one.answer is not None:
            completion = rerank_service_pb2.RerankResponse.FromString(one.answer).completion
            complete = completion == ranking_pb2.COMPLETION_COMPLETE
            one.code = "OK" if complete else ranking_pb2.Completion.Name(completion)
            one.answer = None
    return json.dumps([asdict(one) for one in sent])


async def work(target: str, lists: list[dict[str, Any]], kinds: dict[str, Kind]) -> None:
    clients = Clients(target, lists, kinds)
    await clients.connected()
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        task = json.loads(line)
        if "arrivals" in task:
            sent = await clients.open_loop([(at, kind) for at, kind in task["arrivals"]])
        else:
            sent = await clients.closed_loop(**task)
        print(told(sent), flush=True)
    await asyncio.gather(*(channel.close() for channel in clients.channels))


def main() -> None:
    target, lists, kinds = sys.argv[1:]
    made = {name: Kind(**said) for name, said in json.loads(kinds).items()}
    asyncio.run(work(target, json.loads(Path(lists).read_text()), made))


if __name__ == "__main__":
    main()
