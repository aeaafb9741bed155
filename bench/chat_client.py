"""What a chat call costs this process: processor time a call, beside the bare clients', against a mock in a process of
its own.

    python bench/chat_client.py [--calls 600]

Times on shared machines vary; the ratios, taken in one run, are what to look at. Runs are interleaved, and of each set
the median is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import mock_endpoint
import openai

from podium_server.accounting.prices import Prices
from podium_server.backends.chat.backend import Capability, ChatCall, Message
from podium_server.backends.chat.openai.chat import ChatSettings, OpenAIChat

# A window of 20 passages, some 100 words each, and its answer.
PASSAGES = "\n".join(f"[{n}] " + "a passage of the usual length about one thing or another " * 10 for n in range(1, 21))
CALL = ChatCall((Message("system", "You rank passages."), Message("user", PASSAGES)), max_output_tokens=100)


async def side_by_side(call: Callable[[], Awaitable[Any]], calls: int, together: int) -> tuple[float, float]:
    """Return milliseconds of this process's processor time a call, and the seconds that all took."""
    left = iter(range(calls))

    async def work() -> None:
        for _ in left:
            await call()

    cpu_s, began_s = time.process_time(), time.perf_counter()
    await asyncio.gather(*(work() for _ in range(together)))
    return (time.process_time() - cpu_s) / calls * 1e3, time.perf_counter() - began_s


async def measure(latency_s: float, calls: int, repeats: int) -> None:
    with mock_endpoint.running(latency_s) as url:
        await measure_at(url, latency_s, calls, repeats)


async def measure_at(url: str, latency_s: float, calls: int, repeats: int) -> None:
    limits = httpx2.Limits(max_connections=200, max_keepalive_connections=200)
    ours = OpenAIChat(
        "mock",
        model="mock",
        base_urls=[url],
        capabilities=[Capability.TEXT],
        prices=Prices(prompt_usd_per_mtok=1.0, cached_usd_per_mtok=0.5, output_usd_per_mtok=4.0),
        settings=ChatSettings(concurrency=128),
    )
    plain = openai.AsyncOpenAI(
        base_url=url, api_key="k", max_retries=0, http_client=openai.DefaultAsyncHttpxClient(limits=limits)
    )
    fast = openai.AsyncOpenAI(
        base_url=url, api_key="k", max_retries=0, http_client=openai.DefaultAioHttpClient(limits=limits)
    )
    messages: Any = [{"role": turn.role, "content": turn.content} for turn in CALL.messages]

    async def create(client: openai.AsyncOpenAI) -> str | None:
        reply = await client.chat.completions.create(model="mock", messages=messages, max_tokens=100, temperature=0)
        return reply.choices[0].message.content

    sets: dict[str, Callable[[], Awaitable[Any]]] = {
        "podium's OpenAIChat": lambda: ours.complete(CALL),
        "openai create(), httpx": lambda: create(plain),
        "openai create(), aiohttp": lambda: create(fast),
    }
    try:
        for together in (8, 64):
            for call in sets.values():
                await side_by_side(call, together * 2, together)  # connections
            taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sets}
            for _ in range(repeats):
                for name, call in sets.items():
                    taken[name].append(await side_by_side(call, calls, together))
            least_s = calls / together * latency_s
            base = statistics.median(cpu_ms for cpu_ms, _ in taken["openai create(), httpx"])
            print(f"\n{latency_s * 1e3:.0f} ms a call, {together} side by side, {repeats} x {calls} calls")
            for name, results in taken.items():
                cpu_ms = statistics.median(cpu_ms for cpu_ms, _ in results)
                wall_s = statistics.median(wall_s for _, wall_s in results)
                print(
                    f"  {name:26} {cpu_ms:5.2f} ms of CPU a call ({cpu_ms / base:4.2f} x openai's usual)"
                    f"   wall {wall_s:6.2f} s = {wall_s / least_s:4.2f} x the least"
                )
    finally:
        await asyncio.gather(ours.aclose(), plain.close(), fast.close())


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    for latency_s in (0.02, 0.2):
        await measure(latency_s, given.calls, given.repeats)


if __name__ == "__main__":
    asyncio.run(main())
