"""Services that are none of ours (health, reflection) behind the guards of the door."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc

from podium_server.transport import calls, status
from podium_server.transport.door import Door


class Guarded(grpc.GenericRpcHandler):
    """Answers as another handler does, to those whom the guards let in.

    Args:
        inner: the other handler.
        door: whose guards these are.

    """

    def __init__(self, inner: grpc.GenericRpcHandler, door: Door) -> None:
        self._inner = inner
        self._door = door

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
            wrapped = self._many(name, found.stream_stream if found.request_streaming else found.unary_stream)
        else:
            make = (
                grpc.stream_unary_rpc_method_handler if found.request_streaming else grpc.unary_unary_rpc_method_handler
            )
            wrapped = self._one(name, found.stream_unary if found.request_streaming else found.unary_unary)
        made: grpc.RpcMethodHandler[Any, Any] = make(wrapped, found.request_deserializer, found.response_serializer)
        return made

    def _one(self, name: str, answer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        async def handle(request: Any, context: calls.Context) -> Any:
            async with AsyncExitStack() as inside:
                if await self._enter(inside, name, context):
                    return await answer(request, context)
            return None

        return handle

    def _many(self, name: str, answer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def handle(request: Any, context: calls.Context) -> AsyncIterator[Any]:
            async with AsyncExitStack() as inside:
                if not await self._enter(inside, name, context):
                    return
                answers = answer(request, context)
                if hasattr(answers, "__aiter__"):
                    async for each in answers:
                        yield each
                else:
                    await answers  # it writes to the context by itself

        return handle

    async def _enter(self, inside: AsyncExitStack, name: str, context: calls.Context) -> bool:
        call = calls.read_call(name, context, mutual=self._door.mutual)
        try:
            for guard in self._door.guards:
                await inside.enter_async_context(guard(call))
        except Exception as error:  # noqa: BLE001  # whatever it is, the caller is told of it as everywhere
            failure = status.failure(error, call.request_id)
            await context.abort(failure.code, failure.status.message, (*call.returned, *failure.trailers))
            return False
        return True
