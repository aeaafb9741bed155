"""Clients of REST: dialects of others, and the contract as JSON."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import httpx2

from tests.soak.account import GRACE_S, Outcome, answered
from tests.soak.world import Client


@dataclass
class Dialect(Client):
    """Reranks in one dialect, over connections that are kept, or over one each."""

    dialect: str = "cohere"
    pipelines: tuple[str, ...] = ("fast",)
    connections: str = "one"

    async def run(self) -> None:
        if self.connections == "one":
            async with self.world.http() as http:
                while not self.world.stop.is_set():
                    await self._once(http)
        while not self.world.stop.is_set():
            async with self.world.http() as http:
                await self._once(http)

    async def _once(self, http: httpx2.AsyncClient) -> None:
        deadline_s = self.rng.uniform(1.5, 5.0)
        await self.entered(deadline_s, self._ask, http, deadline_s)
        await self.pause()

    async def _ask(self, http: httpx2.AsyncClient, deadline_s: float) -> Outcome:
        n = self.rng.randint(1, 10)
        path, body = self._body(n, self.rng.choice(self.pipelines))
        headers = dict(self.world.metadata(self.tenant)) | {"x-podium-timeout-ms": str(int(deadline_s * 1000))}
        answer = await http.post(path, json=body, headers=headers, timeout=deadline_s + GRACE_S)
        said = _json(answer)
        if answer.status_code != 200:
            return self.world.account.of_http(answer.status_code, said, answer.text[:500])
        self._check(said, n)
        if self.dialect == "native":
            total = said["ledger"]["total"]
            partial = said["completion"].removeprefix("COMPLETION_")
        else:
            total = json.loads(answer.headers["x-podium-ledger"])["total"]
            partial = answer.headers["x-podium-completion"].upper()
        self._enter(total)
        return answered(partial)

    def _body(self, n: int, pipeline: str) -> tuple[str, dict[str, Any]]:
        query, texts = self.question(), [f"{i} {self.text()}" for i in range(n)]
        match self.dialect:
            case "cohere":
                return "/cohere/v2/rerank", {"model": pipeline, "query": query, "documents": texts}
            case "tei":
                return f"/tei/{pipeline}/rerank", {"query": query, "texts": texts}
            case "jina":
                return "/jina/v1/rerank", {"model": pipeline, "query": query, "documents": texts}
            case "native":
                documents = [{"id": f"d{i}", "text": text} for i, text in enumerate(texts)]
                return "/podium/v1/rerank", {"pipeline": pipeline, "query": query, "documents": documents}
        raise ValueError(self.dialect)

    def _check(self, said: Any, n: int) -> None:
        if self.dialect == "native":
            order = [each["inputIndex"] for each in said["ranking"]]
        else:
            order = [each["index"] for each in (said if self.dialect == "tei" else said["results"])]
        assert sorted(order) == list(range(n)), f"{len(order)} of {n} documents came back: {order}"

    def _enter(self, total: dict[str, Any]) -> None:
        tokens = sum(
            int(total.get(name) or total.get(camel) or 0)
            for name, camel in (("prompt_tokens", "promptTokens"), ("output_tokens", "outputTokens"))
        )
        cost = total.get("cost_nano_usd", total.get("costNanoUsd"))
        self.world.account.bill(self.tenant).enter(int(cost or 0), tokens, time.monotonic())


def _json(answer: httpx2.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None
