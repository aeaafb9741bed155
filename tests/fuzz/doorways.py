"""Bytes in, bytes out: over gRPC on a socket, or to the very handlers that gRPC calls, without a socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from podium_server.transport import calls
from podium_server.transport.admin_service import ADMIN
from podium_server.transport.door import Door, Method
from podium_server.transport.server import SERVICES
from tests.fuzz.laws import Seen
from tests.fuzz.metadata import Pairs

_ENDS_BY_ITSELF = "/grpc.health.v1.Health/Watch"
_TOO_LATE_S = 5.0
"""Behind its deadline, at which a call has still not ended. It never will."""


def _methods(*services: Any) -> tuple[Method, ...]:
    made = [
        Method(f"/{service.full_name}/{method.name}", method, lambda *_: None)
        for service in services
        for method in service.methods
    ]
    return tuple(method for method in made if method.name != _ENDS_BY_ITSELF)


CONTRACT = _methods(*SERVICES)
BESIDE = _methods(
    health_pb2.DESCRIPTOR.services_by_name["Health"], reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
)
"""Health and reflection."""
ADMINISTRATION = _methods(ADMIN)
BY_NAME = {method.name: method for method in (*CONTRACT, *BESIDE, *ADMINISTRATION)}


class Doorway(Protocol):
    """A way to call methods with bytes."""

    async def call(self, method: Method, messages: Sequence[bytes], metadata: Pairs, timeout_s: float) -> Seen:
        """Return what came back; never raises but for a fault of the fuzzer."""


# --- over the wire --------------------------------------------------------------------------------------------------


class Wire:
    """Calls over a channel whose serializers do nothing.

    Args:
        address: of the server.

    """

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(
            address,
            options=[
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_receive_message_length", -1),
                # So that it is the server that refuses what is too long.
                ("grpc.max_metadata_size", 1 << 20),
                ("grpc.absolute_max_metadata_size", 1 << 20),
                ("grpc.enable_retries", 0),
            ],
        )
        self._stubs: dict[str, Any] = {}

    async def call(self, method: Method, messages: Sequence[bytes], metadata: Pairs, timeout_s: float) -> Seen:
        """Return what came back."""
        try:
            async with asyncio.timeout(timeout_s + _TOO_LATE_S):
                return await self._call(method, messages, metadata, timeout_s)
        except TimeoutError:
            return Seen("NONE", wrong=f"no answer {_TOO_LATE_S:g} s after its deadline")

    async def _call(self, method: Method, messages: Sequence[bytes], metadata: Pairs, timeout_s: float) -> Seen:
        descriptor = method.descriptor
        stub = self._stubs.get(method.name)
        if stub is None:
            kind = ("stream" if descriptor.client_streaming else "unary") + "_"
            kind += "stream" if descriptor.server_streaming else "unary"
            stub = self._stubs[method.name] = getattr(self._channel, kind)(method.name)
        given: Any = _each(messages) if descriptor.client_streaming else messages[0]
        call = stub(given, metadata=metadata, timeout=timeout_s)
        answers: list[bytes] = []
        try:
            if descriptor.server_streaming:
                answers.extend([answer async for answer in call])
            else:
                answers.append(await call)
            code = (await call.code()).name
        except grpc.aio.AioRpcError as error:
            code = error.code().name
        except asyncio.CancelledError:
            # How grpc.aio tells of a call that ended as cancelled, where nobody cancels us.
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            code = "CANCELLED"
        beside = [*(await call.initial_metadata() or ()), *(await call.trailing_metadata() or ())]
        said = await call.details() or ""
        if said == "Internal error from Core":
            # What grpc.aio says of a stream that was refused while it still wrote: it is no answer of the server's.
            code = "UNAVAILABLE_TO_CLIENT"
        details = next((value for key, value in beside if key == "grpc-status-details-bin"), b"")
        everything = b"\n".join(_bytes(part) for pair in beside for part in pair)
        return Seen(code, tuple(answers), everything + said.encode(), _bytes(details))

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


async def _each(messages: Sequence[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


# --- one layer in ---------------------------------------------------------------------------------------------------


class Aborted(Exception):
    """What `abort` of a context raises."""


@dataclass
class Context:
    """As much of gRPC's context as a handler of ours uses."""

    given: Pairs
    ends_at: float
    answers: list[bytes] = field(default_factory=list)
    beside: list[tuple[Any, Any]] = field(default_factory=list)
    code: str = "OK"
    write_as: Any = None

    def invocation_metadata(self) -> Pairs:
        return self.given

    def time_remaining(self) -> float:
        return self.ends_at - time.monotonic()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def auth_context(self) -> dict[str, Any]:
        return {}

    def set_trailing_metadata(self, metadata: Any) -> None:
        self.beside += metadata

    async def send_initial_metadata(self, metadata: Any) -> None:
        self.beside += metadata

    async def write(self, message: Any) -> None:
        self.answers.append(self.write_as(message))

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        self.code = code.name
        self.beside += [("details", details), *trailing_metadata]
        raise Aborted


class Inside:
    """Calls the handlers that gRPC would, with a message's bytes.

    Args:
        door: with the methods of the contract.

    """

    def __init__(self, door: Door) -> None:
        self._handlers = {name: calls._handler(door, method) for name, method in door.methods.items()}

    async def call(self, method: Method, messages: Sequence[bytes], metadata: Pairs, timeout_s: float) -> Seen:
        """Return what came back. An exception that a handler lets out would be UNKNOWN on the wire."""
        handler: Any = self._handlers[method.name]
        context = Context(metadata, time.monotonic() + timeout_s, write_as=handler.response_serializer)
        descriptor = method.descriptor
        read = [handler.request_deserializer(message) for message in messages]
        given: Any = _each(read) if descriptor.client_streaming else read[0]
        try:
            async with asyncio.timeout(timeout_s):
                if descriptor.server_streaming:
                    answer = handler.stream_stream if descriptor.client_streaming else handler.unary_stream
                    await answer(given, context)
                else:
                    answer = handler.stream_unary if descriptor.client_streaming else handler.unary_unary
                    await context.write(await answer(given, context))
        except Aborted:
            pass
        except TimeoutError:
            context.code = "DEADLINE_EXCEEDED"
        except Exception as error:  # noqa: BLE001  # whatever comes out is what is looked for
            return Seen("UNKNOWN", wrong=f"{type(error).__name__} out of the handler: {error}")
        details = next((value for key, value in context.beside if key == "grpc-status-details-bin"), b"")
        everything = b"\n".join(_bytes(part) for pair in context.beside for part in pair)
        return Seen(context.code, tuple(context.answers), everything, details)
