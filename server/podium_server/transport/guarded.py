"""Services that are none of ours (health, reflection): behind the guards of the door, and with our errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc

from podium_server.transport import calls, status
from podium_server.transport.door import Call, Door


class Guarded(grpc.GenericRpcHandler):
    """Answers as another handler does.

    Args:
        inner: the other handler.
        door: of whose guards this is.
        open_to_all: whether they are left out.

    """

    def __init__(self, inner: grpc.GenericRpcHandler, door: Door, *, open_to_all: bool = False) -> None:
        self._inner = inner
        self._door = door
        self._guards = () if open_to_all else door.guards

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler of a method, with the guards around it."""
        found: Any = self._inner.service(handler_call_details)
        if found is None:
            return None
        name = str(handler_call_details.method)
        make: Any
        if found.response_streaming:
            make = (
                grpc.stream_stream_rpc_method_handler
                if found.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            answer = found.stream_stream if found.request_streaming else found.unary_stream
            wrapped = self._many(name, answer, streamed=found.request_streaming)
        else:
            make = (
                grpc.stream_unary_rpc_method_handler if found.request_streaming else grpc.unary_unary_rpc_method_handler
            )
            answer = found.stream_unary if found.request_streaming else found.unary_unary
            wrapped = self._one(name, answer, streamed=found.request_streaming)
        parse = calls.never_raising(found.request_deserializer)
        made: grpc.RpcMethodHandler[Any, Any] = make(wrapped, parse, found.response_serializer)
        return made

    def _one(self, name: str, answer: Callable[[Any, Any], Any], *, streamed: bool) -> Callable[[Any, Any], Any]:
        async def handle(request: Any, context: calls.Context) -> Any:
            call = calls.read_call(name, context, mutual=self._door.mutual)
            try:
                async with AsyncExitStack() as inside:
                    await self._pass(inside, call)
                    return await answer(_read(request, streamed=streamed), context)
            except grpc.aio.BaseError as error:
                # The service has ended it so itself, or nobody waits for it.
                del request, context  # see `calls.abort`
                error.__traceback__ = None
                raise
            except Exception as error:  # noqa: BLE001  # whatever it is, the caller is told of it as everywhere
                aborting = calls.abort(context, call, status.failure(error, call.request_id))
            del request, context
            return await aborting

        return handle

    def _many(
        self, name: str, answer: Callable[[Any, Any], Any], *, streamed: bool
    ) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def handle(request: Any, context: calls.Context) -> AsyncIterator[Any]:
            call = calls.read_call(name, context, mutual=self._door.mutual)
            try:
                async with AsyncExitStack() as inside:
                    await self._pass(inside, call)
                    answers = answer(_read(request, streamed=streamed), context)
                    if hasattr(answers, "__aiter__"):
                        async for each in answers:
                            yield each
                    else:
                        await answers  # it writes to the context by itself
                return
            except grpc.aio.BaseError as error:
                del request, context
                error.__traceback__ = None
                raise
            except Exception as error:  # noqa: BLE001  # likewise
                aborting = calls.abort(context, call, status.failure(error, call.request_id))
            del request, context
            await aborting

        return handle

    async def _pass(self, inside: AsyncExitStack, call: Call) -> None:
        for guard in self._guards:
            await inside.enter_async_context(guard(call))


def _read(request: Any, *, streamed: bool) -> Any:
    return calls.read_stream(request) if streamed else calls.read_one(request)
