"""The door that every call goes through, whatever it speaks: gRPC (`calls`) or JSON over HTTP (`rest`).

Methods of services are plain coroutines and asynchronous iterators over messages that raise our errors. Only here is a
call refused because the server drains, only here are calls counted, and here stand the guards: who may enter, how
often, and who keeps the figures.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from podium_server.errors import Unavailable
from podium_server.transport import status

log = logging.getLogger(__name__)

REQUEST_ID_KEY = "x-request-id"
TRACEPARENT_KEY = "traceparent"

_NOTHING: Mapping[str, str] = MappingProxyType({})


class Call(NamedTuple):
    """One call of one method, as its service knows it.

    Args:
        method: its full name, such as `/podium.v1.RerankService/Rerank`.
        request_id: the caller's, or made up.
        named: whether it is the caller's.
        traceparent: as the caller gave it; empty where it gave none.
        began: `time.monotonic()` seconds.
        deadline_at: likewise: after it nothing can be delivered. None where the caller set none.
        metadata: what the caller sent beside the message, by lower-case key: metadata, or the headers of HTTP.
        peer: who is at the other end, as gRPC writes it (`ipv4:127.0.0.1:5432`).
        via: `grpc`, or the dialect of HTTP.
        subjects: names in the certificate that the other end has shown and proved to own; none without mutual TLS.

    """

    method: str
    request_id: str
    named: bool = False
    traceparent: str = ""
    began: float = 0.0
    deadline_at: float | None = None
    metadata: Mapping[str, str] = _NOTHING
    peer: str = ""
    via: str = "grpc"
    subjects: tuple[str, ...] = ()

    @property
    def returned(self) -> tuple[tuple[str, str], ...]:
        """What goes back to the caller beside the answer."""
        return ((REQUEST_ID_KEY, self.request_id),)


current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)
"""The call on whose behalf the running task works. Log records get their request id from it (`logs`)."""

Guard: TypeAlias = Callable[[Call], AbstractAsyncContextManager[object]]
"""Stands around a call. It refuses by raising one of our errors on the way in, and sees every error on the way out."""


@dataclass(frozen=True, slots=True)
class Method:
    """One method of the contract, and who answers it.

    Args:
        name: `/podium.v1.RerankService/Rerank`.
        descriptor: of the contract.
        answer: a coroutine function, or an asynchronous generator function where answers are streamed. It takes a
            message, or an asynchronous iterator over messages where requests are streamed, and the call.

    """

    name: str
    descriptor: MethodDescriptor
    answer: Callable[[Any, Call], Any]

    @property
    def request(self) -> type[Message]:
        """The class of its requests."""
        return GetMessageClass(self.descriptor.input_type)

    @property
    def response(self) -> type[Message]:
        """The class of its answers."""
        return GetMessageClass(self.descriptor.output_type)


@dataclass(slots=True)
class Door:
    """Lets calls in to the methods, and counts those that are inside.

    Args:
        guards: the outermost first.
        mutual: whether callers show certificates.

    """

    guards: Sequence[Guard] = ()
    mutual: bool = False
    methods: dict[str, Method] = field(default_factory=dict)
    running: int = 0
    closed: bool = False
    _empty: asyncio.Event = field(default_factory=asyncio.Event)

    def offer(self, service: ServiceDescriptor, servicer: object) -> list[Method]:
        """Add the methods of a service: each of the contract is the one of that name in `servicer`."""
        made = [
            Method(f"/{service.full_name}/{method.name}", method, getattr(servicer, _snake(method.name)))
            for method in service.methods
        ]
        self.methods.update((method.name, method) for method in made)
        return made

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

    async def one(self, method: Method, read: Callable[[], Any], call: Call) -> Message:
        """Answer a call of a method that does not stream answers.

        Args:
            method: one of `methods`.
            read: returns the message, or the iterator over messages; what cannot be read is an error of the call.
            call: of which this is.

        Raises:
            Failed: with what the caller is to be told, whatever went wrong.

        """
        answer: Callable[[Any, Call], Awaitable[Message]] = method.answer
        code = "OK"
        self._enter(call)
        try:
            if not self.guards:
                self._admit()
                return await answer(read(), call)
            async with AsyncExitStack() as inside:
                await self._pass(inside, call)
                return await answer(read(), call)
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except Exception as error:
            failure = _translated(error, call)
            code = failure.code.name
            raise Failed(failure) from error
        finally:
            self._leave(call, code)

    async def many(self, method: Method, read: Callable[[], Any], call: Call) -> AsyncGenerator[Message]:
        """Answer a call of a method that streams its answers; as `one`. The caller closes the iterator."""
        answer: Callable[[Any, Call], AsyncGenerator[Message]] = method.answer
        code = "OK"
        self._enter(call)
        try:
            async with AsyncExitStack() as inside:
                await self._pass(inside, call)
                async with aclosing(answer(read(), call)) as answers:
                    async for each in answers:
                        yield each
        except (asyncio.CancelledError, GeneratorExit):
            code = "CANCELLED"
            raise
        except Exception as error:
            failure = _translated(error, call)
            code = failure.code.name
            raise Failed(failure) from error
        finally:
            self._leave(call, code)

    async def _pass(self, inside: AsyncExitStack, call: Call) -> None:
        """Past the guards. The drain is refused inside them, so that whoever keeps the figures sees it."""
        for guard in self.guards:
            await inside.enter_async_context(guard(call))
        self._admit()

    def _admit(self) -> None:
        if self.closed:
            raise Unavailable("this server is stopping; another one will answer")

    def _enter(self, call: Call) -> None:
        self.running += 1
        current_call.set(call)

    def _leave(self, call: Call, code: str) -> None:
        self.running -= 1
        if not self.running:
            self._empty.set()
        if log.isEnabledFor(logging.INFO):
            took_ms = round((time.monotonic() - call.began) * 1000, 1)
            log.info("call", extra={"method": call.method, "code": code, "took_ms": took_ms})


def _translated(error: Exception, call: Call) -> status.Failure:
    """Return an error as its caller is told of it, and have it forget the frames that it came through.

    One of them that knows it by a name would keep itself, the error, all frames and the message among them until the
    collector of cycles comes, which is seldom (`server`).
    """
    failure = status.failure(error, call.request_id)
    error.__traceback__ = None
    return failure


class Failed(Exception):
    """A call ended in an error, which was translated; the door's caller says it in its own words."""

    def __init__(self, failure: status.Failure) -> None:
        super().__init__(failure.status.message)
        self.failure = failure


def _snake(name: str) -> str:
    """Return `batch_rerank` for `BatchRerank`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
