"""`podium.admin.v1.AdminService`, and the port of its own that it is served at."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from podium.admin.v1 import admin_service_pb2 as wire
from podium_server.errors import ConfigInvalid, InvalidRequest
from podium_server.transport import calls, sturdy
from podium_server.transport.door import Call, Door
from podium_server.transport.ports import check_free, shown

log = logging.getLogger(__name__)

ADMIN = wire.DESCRIPTOR.services_by_name["AdminService"]
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

_BREAKERS = {0: wire.BREAKER_STATE_CLOSED, 1: wire.BREAKER_STATE_HALF_OPEN, 2: wire.BREAKER_STATE_OPEN}
_LAST_BYTES_S = 1.0


class ModelStatus(Protocol):
    """A model, and what it does now."""

    @property
    def name(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def loaded(self) -> bool: ...
    @property
    def refusing(self) -> bool: ...
    @property
    def running(self) -> int: ...
    @property
    def breaker(self) -> int: ...


class Administration(Protocol):
    """What an operator may do (`compose.administration`)."""

    def models(self) -> tuple[ModelStatus, ...]: ...
    def resident_bytes(self) -> int: ...
    async def load(self, model: str) -> ModelStatus: ...
    async def unload(self, model: str) -> tuple[ModelStatus, int]: ...


class AdminService:
    """The methods of the contract."""

    def __init__(self, administration: Administration) -> None:
        self._administration = administration

    async def list_models(self, _message: wire.ListModelsRequest, _call: Call) -> wire.ListModelsResponse:
        """Tell of all models."""
        return wire.ListModelsResponse(
            models=map(_status, self._administration.models()), resident_bytes=self._administration.resident_bytes()
        )

    async def load_model(self, message: wire.LoadModelRequest, _call: Call) -> wire.LoadModelResponse:
        """Load a model, and take it into service."""
        return wire.LoadModelResponse(model=_status(await self._administration.load(_named(message.model))))

    async def unload_model(self, message: wire.UnloadModelRequest, _call: Call) -> wire.UnloadModelResponse:
        """Take a model out of service, and free its memory."""
        model, freed_bytes = await self._administration.unload(_named(message.model))
        return wire.UnloadModelResponse(model=_status(model), freed_bytes=freed_bytes)

    async def set_log_level(self, message: wire.SetLogLevelRequest, _call: Call) -> wire.SetLogLevelResponse:
        """Set what is logged."""
        if message.level not in LEVELS:
            raise InvalidRequest("level", f"is {message.level[:32]!r}; one of {', '.join(LEVELS)}")
        # A name that no logger has yet would be kept for ever; only those there are can be set.
        if message.logger and message.logger not in logging.root.manager.loggerDict:
            raise InvalidRequest("logger", f"none is named {message.logger[:64]!r}")
        logger = logging.getLogger(message.logger or None)
        previous = logging.getLevelName(logger.getEffectiveLevel())
        logger.setLevel(message.level)
        return wire.SetLogLevelResponse(previous=previous)


@asynccontextmanager
async def administered(administration: Administration, host: str, port: int | None) -> AsyncIterator[str]:
    """Serve within; yield `host:port`, or nothing where there is no port to be.

    Raises:
        ConfigInvalid: nobody can listen there.

    """
    if port is None:
        yield ""
        return
    check_free(host, port)
    server = sturdy.Server([("grpc.so_reuseport", 0)])
    door = Door()
    methods = door.offer(ADMIN, AdminService(administration))
    server.offer((calls.handler(door, ADMIN.full_name, methods),), (ADMIN,))
    try:
        bound = server.add_insecure_port(f"{shown(host)}:{port}")
    except RuntimeError as error:
        raise ConfigInvalid(f"admin.port: cannot listen on {shown(host)}:{port}: {error}") from error
    await server.start()
    address = f"{shown(host)}:{bound}"
    log.info("the admin service listens", extra={"address": address})
    try:
        yield address
    finally:
        await server.stop(_LAST_BYTES_S)


def _named(model: str) -> str:
    if not model:
        raise InvalidRequest("model", "is empty; name one of ListModels")
    return model


def _status(model: ModelStatus) -> wire.ModelStatus:
    return wire.ModelStatus(
        name=model.name,
        backend=model.backend,
        loaded=model.loaded,
        refusing=model.refusing,
        running=model.running,
        breaker=_BREAKERS[model.breaker],
    )
