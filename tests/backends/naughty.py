"""An OpenAI-compatible endpoint on a real socket that misbehaves on demand.

    async with Naughty(status(429, {"retry-after": "2"}), reply("[2] > [1]")) as endpoint:
        ...  # endpoint.url ends in /v1; endpoint.requests holds what came in

Each call to `/chat/completions` is answered by the next behaviour in the list; the last one answers all that follow. A
behaviour may also be chosen by request: `Naughty(choose=lambda request: ...)`.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from socket import SO_LINGER, SOL_SOCKET
from types import TracebackType
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


Behaviour = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class Naughty:
    behaviours: tuple[Behaviour, ...]
    choose: Callable[[Request], Behaviour] | None
    models: tuple[str, ...]
    latency_s: float
    requests: list[Request] = field(default_factory=list)
    under_way: int = 0
    under_way_most: int = 0
    left: int = 0
    """Calls whose client closed the connection before the answer."""
    someone_left: asyncio.Event = field(default_factory=asyncio.Event)
    someone_came: asyncio.Event = field(default_factory=asyncio.Event)
    tokens: Callable[[dict[str, Any]], list[int]] | None = None
    """Answers `/tokenize` where set."""
    path: str = "/chat/completions"
    """The end of the path that the behaviours answer."""
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def __init__(
        self,
        *behaviours: Behaviour,
        choose: Callable[[Request], Behaviour] | None = None,
        models: tuple[str, ...] = ("tiny",),
        latency_s: float = 0.0,
        tokens: Callable[[dict[str, Any]], list[int]] | None = None,
        path: str = "/chat/completions",
    ) -> None:
        self.behaviours, self.choose, self.models, self.latency_s = behaviours or (reply(),), choose, models, latency_s
        self.tokens, self.path = tokens, path
        self.requests, self.under_way, self.under_way_most, self.left = [], 0, 0, 0
        self.someone_left, self.someone_came = asyncio.Event(), asyncio.Event()
        self._server, self._writers = None, set()

    async def __aenter__(self) -> Naughty:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def calls(self) -> list[Request]:
        return [request for request in self.requests if request.path.endswith(self.path)]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while (request := await _read(reader)) is not None:
                self.requests.append(request)
                self.someone_came.set()
                if self.latency_s:
                    await asyncio.sleep(self.latency_s)
                if request.path.endswith("/models"):
                    listed = {"object": "list", "data": [{"id": name, "max_model_len": 4096} for name in self.models]}
                    await _send(writer, 200, json.dumps(listed).encode())
                elif request.path.endswith("/tokenize") and self.tokens is not None:
                    await _send(writer, 200, json.dumps({"tokens": self.tokens(request.body)}).encode())
                elif not request.path.endswith(self.path):
                    await _send(writer, 404, b'{"detail":"Not Found"}')
                else:
                    await self._misbehave(request, reader, writer)
                if writer.is_closing():
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _misbehave(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.choose is not None:
            behaviour = self.choose(request)
        else:
            behaviour = self.behaviours[min(len(self.calls), len(self.behaviours)) - 1]
        self.under_way += 1
        self.under_way_most = max(self.under_way_most, self.under_way)
        work = asyncio.ensure_future(behaviour(request, writer))
        gone = asyncio.ensure_future(_end_of(reader))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self.left += 1
                self.someone_left.set()
                writer.transport.abort()
        finally:
            self.under_way -= 1
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)


async def _end_of(reader: asyncio.StreamReader) -> None:
    """Return when the client has gone away; its next request is left to be read."""
    while not reader.at_eof():  # noqa: ASYNC110  a StreamReader has no event for it that leaves the data alone
        await asyncio.sleep(0.005)


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    method, path, _ = head[0].split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    raw = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, json.loads(raw) if raw else None)


async def _send(writer: asyncio.StreamWriter, code: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
    lines = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    head = f"HTTP/1.1 {code} X\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
    writer.write(head.encode("latin-1") + body)
    await writer.drain()


# --- behaviours -----------------------------------------------------------------------------------------------------

USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


def completion(
    text: str | None = "[1] > [2]",
    *,
    finish_reason: str | None = "stop",
    usage: Mapping[str, Any] | None = USAGE,
    logprobs: Any = None,
    model: str = "tiny",
    message: Mapping[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    said = {"role": "assistant", "content": text, **(message or {})}
    choice = {"index": 0, "message": said, "finish_reason": finish_reason, "logprobs": logprobs}
    body: dict[str, Any] = {"id": "c", "object": "chat.completion", "created": 1, "model": model, "choices": [choice]}
    if usage is not None:
        body["usage"] = dict(usage)
    return {**body, **fields}


def top_logprobs(**likely: float) -> dict[str, Any]:
    """The log-probabilities of one place, the sampled token first."""
    pairs = [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in likely.items()]
    return {"content": [{**pairs[0], "top_logprobs": pairs}]}


def reply(text: str | None = "[1] > [2]", *, wait_s: float = 0.0, **options: Any) -> Behaviour:
    return body(json.dumps(completion(text, **options)).encode(), wait_s=wait_s)


def body(raw: bytes, *, code: int = 200, headers: Mapping[str, str] | None = None, wait_s: float = 0.0) -> Behaviour:
    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        if wait_s:
            await asyncio.sleep(wait_s)
        await _send(writer, code, raw, headers)

    return behave


def status(http_status: int, headers: Mapping[str, str] | None = None, message: str = "no", **error: Any) -> Behaviour:
    return body(json.dumps({"error": {"message": message, **error}}).encode(), code=http_status, headers=headers)


def html(code: int = 200) -> Behaviour:
    page = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
    return body(page, code=code, headers={"content-type": "text/html"})


def truncated_json() -> Behaviour:
    whole = json.dumps(completion()).encode()
    return body(whole[: len(whole) // 2])


def empty_choices() -> Behaviour:
    return body(json.dumps({**completion(), "choices": []}).encode())


async def hang(request: Request, writer: asyncio.StreamWriter) -> None:
    """Never answers."""
    await asyncio.Event().wait()


async def half_then_hang(request: Request, writer: asyncio.StreamWriter) -> None:
    """Sends the head and the beginning of a body, and stops there."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{")
    await writer.drain()
    await asyncio.Event().wait()


async def reset_in_mid_body(request: Request, writer: asyncio.StreamWriter) -> None:
    """Breaks the connection off, with a reset, after the beginning of a body."""
    writer.write(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{"id": "')
    await writer.drain()
    await asyncio.sleep(0.01)
    writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def close_without_a_word(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def no_http(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
    await writer.drain()
    writer.close()


async def endless(request: Request, writer: asyncio.StreamWriter) -> None:
    """A body without a length that never ends."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1000\r\n" + b"a" * 0x1000 + b"\r\n")
        await writer.drain()
        await asyncio.sleep(0)
