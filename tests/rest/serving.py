"""A real server with REST beside it on a real socket, over a Podium whose judges a test writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc
import httpx2

from podium.v1 import rerank_service_pb2_grpc
from podium_server.accounting.usage import Usage
from podium_server.judges.case import Case
from podium_server.judges.judge import JudgeFacts, Ruling, ScoreKind, Sink
from podium_server.rest.server import RestServer
from podium_server.transport.door import Guard
from podium_server.transport.server import Server
from podium_strategies.oracle import Oracle
from podium_strategies.plan import Grade, Question
from tests.ranking.scripted import ScriptedJudge
from tests.wire.serving import Standing, standing

CAPITALS = [
    "Carson City is the capital city of the American state of Nevada.",
    "The Commonwealth of the Northern Mariana Islands is a group of islands in the Pacific. Its capital is Saipan.",
    "Capitalization in English grammar is the use of a capital letter at the start of a word.",
    "Washington, D.C. is the capital of the United States. It is a federal district.",
    "Capital punishment has existed in the United States since before it was a country.",
]
"""The documents of Cohere's and Jina's references."""
QUERY = "What is the capital of the United States?"


GRADES: dict[ScoreKind, Callable[[int], float]] = {
    ScoreKind.PROBABILITY: lambda rank: 1 / (1 + rank),
    ScoreKind.LOGIT: lambda rank: 3.0 - rank,
    ScoreKind.COSINE: lambda rank: 1 - rank / 50,
    ScoreKind.GRADE: lambda rank: 4.0 - rank,
}


def truth(*order: int) -> Oracle:
    """Return an oracle whose best is the first of these."""
    return Oracle([-order.index(item) for item in range(len(order))])


@dataclass
class Grading(ScriptedJudge):
    """A judge whose grades are of some kind. It may cut what it reads."""

    kind: ScoreKind = ScoreKind.LOGIT
    cuts: bool = False

    @property
    def facts(self) -> JudgeFacts:
        return replace(super().facts, score_kind=self.kind)

    async def rule(self, case: Case, questions: Sequence[Question[Any]], sink: Sink) -> None:
        if not questions or not isinstance(questions[0], Grade):
            await super().rule(case, questions, sink)
            return
        for index, question in enumerate(questions):
            usage = Usage(calls=1, pairs=1, prompt_tokens=10, truncated_documents=int(self.cuts))
            grade = GRADES[self.kind](self.oracle.truth.index(question.items[0]))
            sink.ruled(index, Ruling(grade, self.prices.charge(usage)), elapsed_s=0.0)


@dataclass
class Rest:
    """A client of REST, the stub of gRPC, and the server itself."""

    http: httpx2.AsyncClient
    grpc: rerank_service_pb2_grpc.RerankServiceAsyncStub
    server: Server
    url: str

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").rsplit(":", 1)
        return host, int(port)

    async def post(self, path: str, body: Any = None, **more: Any) -> httpx2.Response:
        return await self.http.post(path, json=body, **more)

    async def raw(self, sent: bytes, *, within_s: float = 10.0) -> bytes:
        """Send bytes over a connection of their own, and return all that comes until it is closed."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            writer.write(sent)
            async with asyncio.timeout(within_s):
                return await reader.read()
        finally:
            writer.close()


def configured(podium: Standing, **section: Any) -> Standing:
    """Return the Podium with `[rest]` as given."""
    rest = podium.config.rest.model_copy(update={"port": 0, **section})
    podium.config = podium.config.model_copy(update={"rest": rest})
    return podium


@asynccontextmanager
async def resting(
    podium: Standing | None = None, *, guards: Sequence[Guard] = (), **section: Any
) -> AsyncIterator[Rest]:
    """Serve within."""
    podium = configured(podium or standing(), **section)
    server = Server(podium, guards=guards)
    rest = RestServer(podium.config.rest)
    try:
        address = await server.start("127.0.0.1", 0)
        url = await rest.start(server)
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with (
            httpx2.AsyncClient(base_url=url, timeout=30) as http,
            grpc.aio.insecure_channel(address, options=options) as channel,
        ):
            yield Rest(http, rerank_service_pb2_grpc.RerankServiceStub(channel), server, url)
    finally:
        server.door.close()
        await rest.stop()
        await server.stop()
