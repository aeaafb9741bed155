"""Calls of gRPC: handlers of the door's methods, what a call brings, and errors as gRPC writes them."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from secrets import token_hex
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError, Message

from podium_server.access.tls import subjects_in
from podium_server.errors import InvalidRequest
from podium_server.transport import status
from podium_server.transport.door import REQUEST_ID_KEY, TRACEPARENT_KEY, Call, Door, Failed, Method

_REQUEST_ID = re.compile(r"[\x20-\x7e]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
# gRPC reports a call without a deadline by None or by a time beyond all use, depending on the client.
_FOREVER_S = 10 * 365 * 24 * 3600.0

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for bytes that are no message of the expected kind."""

    why: str


def handler(door: Door, service: str, methods: Iterable[Method]) -> grpc.GenericRpcHandler:
    """Return the handler of a service."""
    made = {method.descriptor.name: _handler(door, method) for method in methods}
    return grpc.method_handlers_generic_handler(service, made)


def _handler(door: Door, method: Method) -> grpc.RpcMethodHandler[Any, Any]:
    makers: dict[tuple[bool, bool], tuple[Callable[..., Any], Callable[..., Any]]] = {
        (False, False): (grpc.unary_unary_rpc_method_handler, _one),
        (False, True): (grpc.unary_stream_rpc_method_handler, _many),
        (True, False): (grpc.stream_unary_rpc_method_handler, _one),
        (True, True): (grpc.stream_stream_rpc_method_handler, _many),
    }
    make, wrap = makers[method.descriptor.client_streaming, method.descriptor.server_streaming]
    read = read_stream if method.descriptor.client_streaming else read_one
    made: grpc.RpcMethodHandler[Any, Any] = make(
        wrap(door, method, read),
        request_deserializer=never_raising(method.request.FromString),
        response_serializer=method.response.SerializeToString,
    )
    return made


def _one(door: Door, method: Method, read: Callable[[Any], Any]) -> Callable[[Any, Context], Any]:
    async def handle(request: Any, context: Context) -> Message | None:
        call = read_call(method.name, context, mutual=door.mutual)
        # Beside the answer itself, this is the dearest part of a short call: not for those who did not ask.
        if call.named:
            await context.send_initial_metadata(call.returned)
        try:
            return await door.one(method, partial(read, request), call)
        except Failed as failed:
            aborting = abort(context, call, failed.failure)
        del request, context  # see `abort`
        await aborting
        return None

    return handle


def _many(door: Door, method: Method, read: Callable[[Any], Any]) -> Callable[[Any, Context], Any]:
    async def handle(request: Any, context: Context) -> None:
        call = read_call(method.name, context, mutual=door.mutual)
        await context.send_initial_metadata(call.returned)
        try:
            async with aclosing(door.many(method, partial(read, request), call)) as answers:
                async for answer in answers:
                    await context.write(answer)
            return
        except Failed as failed:
            aborting = abort(context, call, failed.failure)
        del request, context
        await aborting

    return handle


def abort(context: Context, call: Call, failure: status.Failure) -> Coroutine[Any, Any, None]:
    """Return what ends a call with an error, to be awaited where nothing of the call is known by a name any more.

    It raises, and gRPC keeps that error with the call: what a frame of its traceback knows, and the errors that it was
    raised among, would be kept until the collector of cycles comes, a message of 64 MiB as well as another.
    """
    return context.abort(failure.code, failure.status.message, (*call.returned, *failure.trailers))


def read_call(name: str, context: Context, *, mutual: bool) -> Call:
    """Return what a call brings; where certificates are `mutual`, with the names in that of the caller."""
    request_id = traceparent = ""
    metadata: dict[str, str] = {}
    for key, value in context.invocation_metadata() or ():
        if not isinstance(value, str):
            continue
        metadata[key] = value
        if key == REQUEST_ID_KEY and _REQUEST_ID.fullmatch(value):
            request_id = value
        elif key == TRACEPARENT_KEY and _TRACEPARENT.fullmatch(value):
            traceparent = value
    began = time.monotonic()
    remaining_s = context.time_remaining()
    call = Call(
        method=name,
        request_id=request_id or token_hex(16),
        named=bool(request_id),
        traceparent=traceparent,
        began=began,
        deadline_at=None if remaining_s is None or remaining_s > _FOREVER_S else began + remaining_s,
        metadata=metadata,
        peer=context.peer(),
        subjects=subjects_in(context.auth_context()) if mutual else (),
    )
    context.set_trailing_metadata(call.returned)
    return call


def never_raising(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return a parser that gives `Unreadable`: gRPC makes UNKNOWN of an error, and it is the caller's mistake."""

    def read(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError as error:
            return Unreadable(str(error))

    return read


def read_one(request: Any) -> Any:
    """Return a message.

    Raises:
        InvalidRequest: its bytes were none.

    """
    if isinstance(request, Unreadable):
        raise InvalidRequest(
            "request", f"cannot be read: {request.why}. Strings have to be UTF-8, which has no lone surrogates"
        )
    return request


async def read_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Yield messages as they come; as `read_one`."""
    async for request in requests:
        yield read_one(request)
