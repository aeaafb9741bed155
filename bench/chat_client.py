"""What a chat call costs this process: processor time a call, beside the bare clients', against a mock in a process of
its own.

    python bench/chat_client.py [--calls 600]

Times on shared machines vary; the ratios, taken in one run, are what to look at. Runs are interleaved, and of each set
the median is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import openai

from podium_server.accounting.prices import Prices
from podium_server.backends.chat import Capability, ChatCall, Message
from podium_server.backends.openai_chat import ChatSettings, OpenAIChat

# A window of 20 passages, some 100 words each, and its answer.
PASSAGES = "\n".join(f"[{n}] " + "a passage of the usual length about one thing or another " * 10 for n in range(1, 21))
CALL = ChatCall((Message("system", "You rank passages."), Message("user", PASSAGES)), max_output_tokens=100)
REPLY = " > ".join(f"[{n}]" for n in range(20, 0, -1))


class Mock(asyncio.Protocol):
    """Answers every request after a while, whatever it says, at the least cost."""

    def __init__(self, latency_s: float) -> None:
        usage = {"prompt_tokens": 2400, "completion_tokens": 80, "prompt_tokens_details": {"cached_tokens": 512}}
        choice = {"index": 0, "message": {"role": "assistant", "content": REPLY}, "finish_reason": "stop"}
        whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "mock", "choices": [choice]}
        body = json.dumps({**whole, "usage": usage}).encode()
        self._reply = (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        self._latency_s = latency_s
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            whole = end + 4 + (int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0)
            if len(self._buffer) < whole:
                return
            self._buffer = self._buffer[whole:]
            asyncio.get_running_loop().call_later(self._latency_s, self._transport.write, self._reply)


async def serve(latency_s: float) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Mock(latency_s), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


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
    mock = subprocess.Popen([sys.executable, __file__, "--serve", str(latency_s)], stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    assert mock.stdout is not None
    url = f"http://127.0.0.1:{int(mock.stdout.readline())}/v1"
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
        mock.terminate()
        mock.wait()
        await asyncio.gather(ours.aclose(), plain.close(), fast.close())


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--serve", type=float, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        await serve(given.serve)
        return
    for latency_s in (0.02, 0.2):
        await measure(latency_s, given.calls, given.repeats)


if __name__ == "__main__":
    asyncio.run(main())
