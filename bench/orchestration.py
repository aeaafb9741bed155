"""How long many lists take over one chat endpoint, against the least that the calls' own latency allows.

100 candidates a list, windows of 20, stride 10: 9 calls, each of which needs the one before. Beside it, in the same
run: a loop that asks one call after another through openai's own client, and pairwise heapsort, whose subtrees are
asked side by side, against the same calls one after another.

    python bench/orchestration.py
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import mock_endpoint
import openai

from podium_server.compose import Podium
from podium_server.config import Config, parse
from podium_server.judges.case import Candidate
from podium_server.ranking.request import Outcome, RankRequest

CANDIDATES = 100
DOCUMENT = "a passage of the usual length about one thing or another " * 10
WINDOWS = {"strategy": "sliding-window", "model": "mock", "prompt": "rank-zephyr", "size": 20, "stride": 10}
HEAPSORT = {"strategy": "pairwise-heapsort", "model": "mock", "k": 10}


def config(url: str) -> Config:
    return parse(
        {
            "server": {"default_pipeline": "windows"},
            "models": {
                "mock": {
                    "backend": "openai",
                    "model": "mock",
                    "base_url": url,
                    "capabilities": ["text"],
                    "concurrency": 128,
                    "prices": {"prompt_usd_per_mtok": 1.0, "output_usd_per_mtok": 4.0},
                }
            },
            "pipelines": {"windows": {"stages": [WINDOWS]}, "heapsort": {"stages": [HEAPSORT]}},
        },
        where="bench",
    )


def request(number: int, pipeline: str) -> RankRequest:
    candidates = tuple(Candidate(f"d{i}", f"{i} {DOCUMENT}") for i in range(CANDIDATES))
    return RankRequest(f"query {number}", candidates, pipeline=pipeline)


async def ranked(podium: Podium, lists: int, pipeline: str) -> tuple[float, float, list[Outcome]]:
    """Return seconds by the clock, seconds of this process's processor time, and the outcomes."""
    requests = [request(number, pipeline) for number in range(lists)]
    began_s, cpu_s = time.perf_counter(), time.process_time()
    outcomes = await asyncio.gather(*(podium.reranker.rerank(one) for one in requests))
    return time.perf_counter() - began_s, time.process_time() - cpu_s, outcomes


async def one_after_another(url: str, calls: int) -> float:
    """Return the seconds of a plain loop over openai's client, with prompts of the same size."""
    client = openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0)
    messages: Any = [{"role": "user", "content": "\n".join(f"[{i}] {DOCUMENT}" for i in range(1, 21))}]
    await client.chat.completions.create(model="mock", messages=messages)
    began_s = time.perf_counter()
    for _ in range(calls):
        reply = await client.chat.completions.create(model="mock", messages=messages, temperature=0)
        assert reply.choices[0].message.content
    taken_s = time.perf_counter() - began_s
    await client.close()
    return taken_s


async def windows(url: str, latency_s: float, lists: int, *, beside_a_loop: bool) -> None:
    podium = Podium(config(url), data_dir=None)
    await ranked(podium, lists, "windows")  # connections, once
    wall_s, cpu_s, outcomes = min([await ranked(podium, lists, "windows") for _ in range(3)], key=lambda run: run[0])
    calls = sum(outcome.ledger.total().calls for outcome in outcomes)
    least_s = 9 * latency_s
    line = (
        f"{lists:3} lists, {latency_s * 1e3:3.0f} ms a call, {calls} calls: "
        f"{wall_s:5.2f} s = {wall_s / least_s:4.2f} x the critical path of {least_s:.2f} s; "
        f"{cpu_s / calls * 1e3:.2f} ms of our own CPU a call"
    )
    if beside_a_loop:
        loop_s = await one_after_another(url, calls)
        line += f"; a loop of single calls {loop_s:.2f} s = {loop_s / wall_s:.1f} x as long"
    print(line, flush=True)
    await podium.aclose()


async def heapsort(url: str, latency_s: float) -> None:
    podium = Podium(config(url), data_dir=None)
    wall_s, _, [outcome] = await ranked(podium, 1, "heapsort")
    calls = outcome.ledger.total().calls
    loop_s = await one_after_another(url, calls)
    print(
        f"pairwise heapsort, {latency_s * 1e3:.0f} ms a call, {calls} calls, {outcome.ledger.rounds} deep: "
        f"{wall_s:.2f} s; the same calls one after another {loop_s:.2f} s = {loop_s / wall_s:.1f} x as long"
    )
    await podium.aclose()


async def main() -> None:
    with mock_endpoint.running(0.2) as url:
        await windows(url, 0.2, 8, beside_a_loop=False)
        await windows(url, 0.2, 64, beside_a_loop=False)
    with mock_endpoint.running(0.02) as url:
        await windows(url, 0.02, 8, beside_a_loop=True)
        await heapsort(url, 0.02)


if __name__ == "__main__":
    asyncio.run(main())
