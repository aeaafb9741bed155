"""`grpc.health.v1`: a name for each service, and the empty one for all of them together.

It follows what the services need to answer, looked at every half second: models are loaded in the background and may
come later than the socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2

if TYPE_CHECKING:
    from grpc_health.v1._async import HealthServicer

SERVICE: ServiceDescriptor = health_pb2.DESCRIPTOR.services_by_name["Health"]  # type: ignore[assignment]  # upb's own
_LOOK_EVERY_S = 0.5


class Health:
    """What the health service answers.

    Args:
        ready: by name of a service, whether it can answer now.
        optional: services that this server does not offer: they have a health of their own, and no part in the whole.

    """

    def __init__(self, ready: Mapping[str, Callable[[], bool]], *, optional: Collection[str] = ()) -> None:
        self.servicer: HealthServicer = health.aio.HealthServicer()
        self._ready = ready
        self._optional = frozenset(optional)
        self._told: dict[str, bool] = {}

    async def look(self) -> None:
        """Tell how things are now."""
        now = {name: ready() for name, ready in self._ready.items()}
        now[health.OVERALL_HEALTH] = all(ready for name, ready in now.items() if name not in self._optional)
        for name, ready in now.items():
            if self._told.get(name) is not ready:
                self._told[name] = ready
                serving = health_pb2.HealthCheckResponse.SERVING
                await self.servicer.set(name, serving if ready else health_pb2.HealthCheckResponse.NOT_SERVING)

    async def follow(self) -> None:
        """Tell how things are, again and again; cancelled by whoever began it."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_EVERY_S)

    async def drain(self) -> None:
        """Tell that nothing is served any more, for good."""
        await self.servicer.enter_graceful_shutdown()


def handler(servicer: HealthServicer) -> grpc.GenericRpcHandler:
    """Return the handler of a servicer, to be offered as it is or behind guards."""
    reading: dict[str, Any] = {
        "request_deserializer": health_pb2.HealthCheckRequest.FromString,
        "response_serializer": health_pb2.HealthCheckResponse.SerializeToString,
    }
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Check": grpc.unary_unary_rpc_method_handler(servicer.Check, **reading),
        "Watch": grpc.unary_stream_rpc_method_handler(servicer.Watch, **reading),
    }
    return grpc.method_handlers_generic_handler(health.SERVICE_NAME, methods)
