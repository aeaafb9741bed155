"""What every call has in common: a request id, a deadline, a log line, and one translation of errors.

Methods of services are plain coroutines and asynchronous iterators over messages that raise our errors. `Door` makes
gRPC handlers of them. Only here is a call refused because the server drains, and only here are calls counted.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, NamedTuple, TypeAlias

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from podium_server.errors import InvalidRequest, Unavailable
from podium_server.transport import status

log = logging.getLogger(__name__)

REQUEST_ID_KEY = "x-request-id"
TRACEPARENT_KEY = "traceparent"
_REQUEST_ID = re.compile(r"[\x20-\x7e]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
# gRPC reports a call without a deadline by None or by a time beyond all use, depending on the client.
_FOREVER_S = 10 * 365 * 24 * 3600.0

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class Call(NamedTuple):
    """One call of one method, as its service knows it.

    Args:
        method: its full name, such as `/podium.v1.RerankService/Rerank`.
        request_id: the caller's, or made up.
        named: whether it is the caller's.
        traceparent: as the caller gave it; empty where it gave none.
        began: `time.monotonic()` seconds.
        deadline_at: likewise: after it nothing can be delivered. None where the caller set none.

    """

    method: str
    request_id: str
    named: bool = False
    traceparent: str = ""
    began: float = 0.0
    deadline_at: float | None = None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes back to the caller beside the answer."""
        return ((REQUEST_ID_KEY, self.request_id),)


current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)
"""The call on whose behalf the running task works. Log records get their request id from it (`logs`)."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for bytes that are no message of the expected kind."""

    why: str


class Door:
    """Makes handlers of methods, and counts the calls that are inside."""

    def __init__(self) -> None:
        self.running = 0
        self.closed = False
        self._empty = asyncio.Event()

    def close(self) -> None:
        """Refuse new calls from now on."""
        self.closed = True

    async def emptied(self, timeout_s: float) -> bool:
        """Wait until no call is inside; return whether that came about in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.running:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def handlers(self, service: ServiceDescriptor, servicer: object) -> grpc.GenericRpcHandler:
        """Return the handlers of a service: each method of the contract is the one of that name in `servicer`."""
        made = {method.name: self._handler(method, servicer) for method in service.methods}
        return grpc.method_handlers_generic_handler(service.full_name, made)

    def _handler(self, method: MethodDescriptor, servicer: object) -> grpc.RpcMethodHandler[Any, Any]:
        behaviour = getattr(servicer, _snake(method.name))
        name = f"/{method.containing_service.full_name}/{method.name}"
        makers: dict[tuple[bool, bool], tuple[Callable[..., Any], Callable[..., Any]]] = {
            (False, False): (grpc.unary_unary_rpc_method_handler, self._unary),
            (False, True): (grpc.unary_stream_rpc_method_handler, self._streaming),
            (True, False): (grpc.stream_unary_rpc_method_handler, self._unary),
            (True, True): (grpc.stream_stream_rpc_method_handler, self._streaming),
        }
        make, wrap = makers[method.client_streaming, method.server_streaming]
        read = _read_stream if method.client_streaming else _read_one
        handler: grpc.RpcMethodHandler[Any, Any] = make(
            wrap(name, behaviour, read),
            request_deserializer=_deserializer(GetMessageClass(method.input_type)),
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )
        return handler

    def _unary(
        self, name: str, behaviour: Callable[[Any, Call], Awaitable[Message]], read: Callable[[Any], Any]
    ) -> Callable[[Any, Context], Awaitable[Message]]:
        async def handle(request: Any, context: Context) -> Message:
            call = self._enter(name, context)
            code = "OK"
            try:
                # Beside the answer itself, this is the dearest part of a short call: not for those who did not ask.
                if call.named:
                    await context.send_initial_metadata(call.metadata)
                self._admit()
                return await behaviour(read(request), call)
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except Exception as error:  # noqa: BLE001  # whatever it is, the caller gets a code and we a log record
                failure = status.failure(error, call.request_id)
                code = failure.code.name
                await context.abort(failure.code, failure.status.message, (*call.metadata, *failure.trailers))
            finally:
                self._leave(call, code)

        return handle

    def _streaming(
        self, name: str, behaviour: Callable[[Any, Call], AsyncGenerator[Message]], read: Callable[[Any], Any]
    ) -> Callable[[Any, Context], Awaitable[None]]:
        async def handle(request: Any, context: Context) -> None:
            call = self._enter(name, context)
            code = "OK"
            try:
                await context.send_initial_metadata(call.metadata)
                self._admit()
                async with aclosing(behaviour(read(request), call)) as answers:
                    async for answer in answers:
                        await context.write(answer)
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except Exception as error:  # noqa: BLE001  # as above
                failure = status.failure(error, call.request_id)
                code = failure.code.name
                await context.abort(failure.code, failure.status.message, (*call.metadata, *failure.trailers))
            finally:
                self._leave(call, code)

        return handle

    def _enter(self, name: str, context: Context) -> Call:
        self.running += 1
        call = _call(name, context)
        context.set_trailing_metadata(call.metadata)
        current_call.set(call)
        return call

    def _admit(self) -> None:
        if self.closed:
            raise Unavailable("this server is stopping; another one will answer")

    def _leave(self, call: Call, code: str) -> None:
        self.running -= 1
        if not self.running:
            self._empty.set()
        if log.isEnabledFor(logging.INFO):
            took_ms = round((time.monotonic() - call.began) * 1000, 1)
            log.info("call", extra={"method": call.method, "code": code, "took_ms": took_ms})


def _call(name: str, context: Context) -> Call:
    request_id = traceparent = ""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            request_id = value
        elif key == TRACEPARENT_KEY and isinstance(value, str) and _TRACEPARENT.fullmatch(value):
            traceparent = value
    began = time.monotonic()
    remaining_s = context.time_remaining()
    return Call(
        method=name,
        request_id=request_id or token_hex(16),
        named=bool(request_id),
        traceparent=traceparent,
        began=began,
        deadline_at=None if remaining_s is None or remaining_s > _FOREVER_S else began + remaining_s,
    )


def _deserializer(kind: type[Message]) -> Callable[[bytes], Message | Unreadable]:
    """Return a parser that does not raise: gRPC would make UNKNOWN of it, and the caller has made a mistake."""
    parse = kind.FromString

    def read(data: bytes) -> Message | Unreadable:
        try:
            return parse(data)
        except DecodeError as error:
            return Unreadable(str(error))

    return read


def _read_one(request: Any) -> Any:
    if isinstance(request, Unreadable):
        raise InvalidRequest(
            "request", f"cannot be read: {request.why}. Strings have to be UTF-8, which has no lone surrogates"
        )
    return request


async def _read_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _read_one(request)


def _snake(name: str) -> str:
    """Return `batch_rerank` for `BatchRerank`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
