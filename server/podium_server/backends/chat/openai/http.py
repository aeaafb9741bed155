"""The connections to the endpoints: one pool for all of them, replies bounded in bytes, requests as JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from importlib.util import find_spec
from typing import Any

import httpx2
import openai


def http_client(connections: int, *, connect_wait_s_max: float, reply_bytes_max: int) -> httpx2.AsyncClient:
    """Return a pool of so many connections, for calls whose whole time is bounded where they are made."""

    async def bound_reply(response: httpx2.Response) -> None:
        length = response.headers.get("content-length", "")
        if length.isdigit() and "content-encoding" not in response.headers:
            if int(length) > reply_bytes_max:
                raise httpx2.ReadError(f"a reply of {length} bytes, {reply_bytes_max} are allowed")
            return
        if isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _BoundedStream(response.stream, reply_bytes_max)

    options: dict[str, Any] = {
        "limits": httpx2.Limits(
            max_connections=connections,
            max_keepalive_connections=connections,
            # Shorter than the 5 s after which uvicorn, and so vLLM, closes an idle connection: a call must not be
            # sent into one that is being closed.
            keepalive_expiry=4.0,
        ),
        # The whole attempt is bounded where it is made; the client's own bounds are for each read.
        "timeout": httpx2.Timeout(None, connect=connect_wait_s_max),
        # A redirected call would be one more call that nobody counted.
        "follow_redirects": False,
        "event_hooks": {"response": [bound_reply]},
    }
    # aiohttp's transport takes half the processor time of httpx's own (bench/chat_client.py).
    if find_spec("aiohttp") is not None:
        return openai.DefaultAioHttpClient(**options)
    return openai.DefaultAsyncHttpxClient(**options)


class _BoundedStream(httpx2.AsyncByteStream):
    """A reply without a length, cut off where it gets too long."""

    def __init__(self, stream: httpx2.AsyncByteStream, bytes_max: int) -> None:
        self._stream = stream
        self._bytes_max = bytes_max

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > self._bytes_max:
                raise httpx2.ReadError(f"a reply of more than the {self._bytes_max} bytes that are allowed")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


def encoded(fields: Mapping[str, Any]) -> bytes:
    """Return the JSON of a request. Lone surrogates, which UTF-8 has no place for, become question marks."""
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
