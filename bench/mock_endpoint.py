"""A chat endpoint that costs next to nothing, in a process of its own: every request is answered after a set time.

python bench/mock_endpoint.py --latency 0.2     prints its address, and serves until it is ended
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

ORDER = " > ".join(f"[{n}]" for n in range(20, 0, -1))
PAIR = "Passage A"


def reply(content: str) -> bytes:
    usage = {"prompt_tokens": 2400, "completion_tokens": 80, "prompt_tokens_details": {"cached_tokens": 512}}
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "mock", "choices": [choice], "usage": usage}
    data = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(data) + data


class Endpoint(asyncio.Protocol):
    """Reads HTTP just well enough to know where a request ends."""

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s
        self._order, self._pair = reply(ORDER), reply(PAIR)
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
            answer = self._pair if b"Passage B" in self._buffer[end:whole] else self._order
            self._buffer = self._buffer[whole:]
            asyncio.get_running_loop().call_later(self._latency_s, self._transport.write, answer)


async def serve(latency_s: float) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Endpoint(latency_s), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def running(latency_s: float) -> Iterator[str]:
    """Run the endpoint in a process of its own and yield its address."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--latency", str(latency_s)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, required=True, metavar="SECONDS")
    asyncio.run(serve(parser.parse_args().latency))
