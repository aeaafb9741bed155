"""A server of gRPC that lives through a path that is no UTF-8.

grpc.aio takes a call off the wire, decodes its path in the loop that takes calls, and stops the whole server where that
fails: one request with a byte of 0xff in its path, from anybody who can connect, before any key is looked at, and the
port is closed for all (grpcio 1.85.1, `_server_main_loop`; found by `tests/fuzz/http2.py`). Here methods that there are
come by their registered names, so that whatever else arrives is a method that there is not: it is told so, and its path
is read by nobody.

This leans on names of grpcio's own, `AioServer._request_call` and `_ServicerContext` among them; a grpcio without them
does not serve, and the error says which is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc._cython import cygrpc
from grpc.aio import _server as aio

from podium_server.errors import ConfigInvalid

_NEEDED = ((cygrpc, "_ServicerContext"), (cygrpc.AioServer, "_request_call"), (aio, "_augment_channel_arguments"))


class _Core(cygrpc.AioServer):  # type: ignore[misc]  # it is compiled, and has no types
    """Answers calls of methods that there are not, by itself."""

    async def _request_call(self) -> Any:
        """Return the next call that is registered nowhere: never, for each of them is answered here."""
        refusing: set[asyncio.Task[None]] = set()
        while True:
            state = await super()._request_call()
            task = asyncio.create_task(_refuse(state))
            refusing.add(task)
            task.add_done_callback(refusing.discard)


async def _refuse(state: Any) -> None:
    context = cygrpc._ServicerContext(state, None, None, asyncio.get_running_loop())
    try:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this server has no such method")
    except grpc.aio.BaseError:
        return  # it is told, or gone


class _Details(NamedTuple):
    method: str
    invocation_metadata: Any = ()


class Server(aio.Server):
    """As `grpc.aio.server` makes it, with methods by their names.

    Args:
        options: of the channel.

    Raises:
        ConfigInvalid: this grpcio is built otherwise.

    """

    def __init__(self, options: Sequence[tuple[str, Any]]) -> None:
        missing = [name for holder, name in _NEEDED if not hasattr(holder, name)]
        if missing:
            raise ConfigInvalid(
                f"grpcio {grpc.__version__} has no {' and no '.join(missing)}, which this server needs "
                "(transport/sturdy.py); install the version that it was released with"
            )
        self._loop = asyncio.get_running_loop()
        core = _Core(self._loop, None, (), (), aio._augment_channel_arguments(options, None), None)
        self._server = core

    def offer(self, handlers: Iterable[grpc.GenericRpcHandler], services: Iterable[ServiceDescriptor]) -> None:
        """Offer those methods of services that one of the handlers answers. Before the server starts."""
        answering = tuple(handlers)
        for service in services:
            found: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
            for method in service.methods:
                name = f"/{service.full_name}/{method.name}"
                for handler in answering:
                    one = handler.service(_Details(name))  # type: ignore[arg-type]  # as much of them as handlers read
                    if one is not None:
                        found[method.name] = one
                        break
            if found:
                self.add_registered_method_handlers(service.full_name, found)
