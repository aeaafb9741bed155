"""Every method of the contract as JSON: `POST /podium/v1/rerank` is `RerankService.Rerank`, and so on.

Messages are read and written by protobuf's own mapping to JSON. Streams are lines of JSON (NDJSON), or server-sent
events where the client accepts those; requests that stream are lines, too, or an array. Errors are `google.rpc.Status`
with the HTTP status of its code; one that comes when a stream has begun is its last line, `{"error": …}`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from podium_server.errors import InvalidRequest
from podium_server.rest import bodies, calls, faults
from podium_server.rest.answers import Rest, answered, body, json_response
from podium_server.rest.calls import Faulted
from podium_server.rest.faults import Fault, HttpError
from podium_server.transport.door import REQUEST_ID_KEY, Call, Failed, Method

PREFIX = "/podium/v1/"
NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"

# The contract's own messages are seven deep, and the values of a Struct as deep as one likes.
_DEPTH_MAX = 64


def path(method: Method) -> str:
    """Return `/podium/v1/streamRerank` for `/podium.v1.RerankService/StreamRerank`."""
    name = method.descriptor.name
    return f"{PREFIX}{name[0].lower()}{name[1:]}"


def refuse(fault: Fault, request_id: str) -> tuple[int, Any]:
    """Return the status and the body of an error."""
    return fault.http, written(fault.status)


def written(message: Message) -> Any:
    """Return a message as JSON has it. Numbers and lists are there even where they are 0 and empty."""
    return json_format.MessageToDict(message, always_print_fields_with_no_presence=True)


def read(value: Any, kind: type[Message], where: str) -> Message:
    """Return the message that a value of JSON is.

    Raises:
        InvalidRequest: it is none of this kind.

    """
    try:
        return json_format.ParseDict(value, kind(), max_recursion_depth=_DEPTH_MAX)
    except (json_format.ParseError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        said = re.sub(r"\s+", " ", str(error)).encode("utf-8", "replace").decode()
        raise InvalidRequest(where, f"is no {kind.DESCRIPTOR.full_name}: {said[:300]}") from None


@dataclass(slots=True)
class Native:
    """The endpoint of one method."""

    rest: Rest
    method: Method

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        request = Request(scope, receive)
        call = calls.call(request, self.method.name, "native")
        work: Callable[[], Any] = self._one(request, call) if self._is_unary else self._stream(request, call, send)
        await answered(scope, receive, send, call, work, lambda: refuse)

    @property
    def _is_unary(self) -> bool:
        descriptor = self.method.descriptor
        return not (descriptor.server_streaming or descriptor.client_streaming)

    def _one(self, request: Request, call: Call) -> Callable[[], Any]:
        async def work() -> Response:
            held = await self.rest.bodies.read(request)
            try:
                door = self.rest.door
                message = await calls.one(door, self.method, lambda: self._read(held.data), call, request.receive)
                return json_response(written(message), headers={REQUEST_ID_KEY: call.request_id})
            finally:
                held.let_go()

        return work

    def _stream(self, request: Request, call: Call, send: Send) -> Callable[[], Any]:
        async def work() -> Response | _Sent:
            sending = _Sending(send, call, events=EVENTS in request.headers.get("accept", ""))
            incoming = _Incoming(self.rest, request, self.method.request)
            if not self.method.descriptor.server_streaming:
                message = await calls.one(self.rest.door, self.method, incoming.messages, call, incoming.gone)
                return json_response(written(message), headers={REQUEST_ID_KEY: call.request_id})
            if self.method.descriptor.client_streaming:
                await self._answers(call, incoming.messages, incoming.gone, sending)
                return _Sent()
            held = await self.rest.bodies.read(request)
            try:
                await self._answers(call, lambda: self._read(held.data), request.receive, sending)
            finally:
                held.let_go()
            return _Sent()

        return work

    def _read(self, data: bytes) -> Message:
        given = bodies.parse(data).value if data.strip() else {}
        return read(given, self.method.request, "body")

    async def _answers(self, call: Call, given: Callable[[], Any], receive: Receive, sending: _Sending) -> None:
        """Send the answers as they come."""

        def checked() -> Any:
            calls.check_timeout(call)
            return given()

        async def work() -> None:
            async with aclosing(self.rest.door.many(self.method, checked, call)) as answers:
                async for answer in answers:
                    await sending.line(written(answer))

        try:
            async with asyncio.timeout_at(call.deadline_at):
                await calls.attended(work(), receive)
        except Failed as failed:
            await sending.fail(faults.of_call(failed))
        except TimeoutError:
            await sending.fail(faults.too_late())
        await sending.end()


class _Sent:
    """Stands for an answer that is on its way already."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send nothing more."""


@dataclass(slots=True)
class _Sending:
    """Sends lines, or events. The head goes out with the first of them, so that an early error has its own status."""

    send: Send
    call: Call
    events: bool
    begun: bool = False

    async def line(self, value: Any, *, event: str = "") -> None:
        """Send a value."""
        if not self.begun:
            await self._head(200, {})
        text = body(value)
        if self.events:
            text = (f"event: {event}\n".encode() if event else b"") + b"data: " + text + b"\n"
        await self.send({"type": "http.response.body", "body": text + b"\n", "more_body": True})

    async def fail(self, fault: Fault) -> None:
        """Send an error: the status where nothing was sent yet, and the last line otherwise.

        Raises:
            Faulted: nothing was sent yet.

        """
        if not self.begun:
            raise Faulted(fault)
        await self.line({"error": written(fault.status)}, event="error")

    async def end(self) -> None:
        """Send the end."""
        if not self.begun:
            await self._head(200, {})
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.begun = True
        made = {
            "content-type": EVENTS if self.events else NDJSON,
            "cache-control": "no-store",
            # nginx would hold lines back until it has a page of them.
            "x-accel-buffering": "no",
            REQUEST_ID_KEY: self.call.request_id,
            **headers,
        }
        raw = [(key.encode("latin-1"), value.encode("latin-1")) for key, value in made.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})


@dataclass(slots=True)
class _Incoming:
    """Messages of a body that is read while answers go out."""

    rest: Rest
    request: Request
    kind: type[Message]
    left: asyncio.Event = field(default_factory=asyncio.Event)
    whole: asyncio.Event = field(default_factory=asyncio.Event)

    async def messages(self) -> AsyncIterator[Message]:
        """Yield them.

        Raises:
            InvalidRequest: a line is none, or the body cannot be read.

        """
        number = 0
        try:
            async for value in self._values():
                number += 1
                yield read(value, self.kind, f"message {number}")
        except HttpError as error:
            raise InvalidRequest("body", str(error)) from None
        except ClientDisconnect:
            self.left.set()
            await asyncio.Event().wait()  # `gone` has the call cancelled
        self.whole.set()

    async def _values(self) -> AsyncIterator[Any]:
        if "ndjson" in (kind := self.request.headers.get("content-type", "").lower()) or "jsonl" in kind:
            async for line in self.rest.bodies.lines(self.request):
                yield bodies.parse(line).value
            return
        held = await self.rest.bodies.read(self.request)
        try:
            given = bodies.parse(held.data).value if held.data.strip() else []
            if not isinstance(given, list):
                raise InvalidRequest("body", f"is no array of messages; send one, or lines of them as {NDJSON}")
            for value in given:
                yield value
        finally:
            held.let_go()

    async def gone(self) -> Any:
        """Wait until the client has gone, as a `receive` of ASGI tells; the body is read elsewhere."""
        left, whole = asyncio.create_task(self.left.wait()), asyncio.create_task(self.whole.wait())
        try:
            await asyncio.wait((left, whole), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await calls.ended(left, whole)
        return {"type": "http.disconnect"} if self.left.is_set() else await self.request.receive()
