"""The admin service on a socket: models out of memory and back, while requests run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from podium.admin.v1 import admin_service_pb2 as wire
from podium.admin.v1 import admin_service_pb2_grpc
from podium_server.compose import Podium
from podium_server.config import load, parse
from podium_server.errors import BackendDown, ConfigInvalid
from podium_server.transport.admin_service import administered
from podium_server.transport.server import Server
from tests.wire.serving import OWN_CONNECTIONS, Stubs, refused, request, until


@dataclass
class Administered:
    podium: Podium
    served: Stubs
    admin: Any

    async def minilm(self) -> Any:
        listed = await self.admin.ListModels(wire.ListModelsRequest())
        return next(model for model in listed.models if model.name == "minilm")


@asynccontextmanager
async def administering(*, unloaded: str = "load", drain_s: float = 30.0) -> AsyncIterator[Administered]:
    config = load(None)
    config = config.model_copy(
        update={
            "admin": config.admin.model_copy(update={"port": 0, "unloaded": unloaded}),
            "limits": config.limits.model_copy(update={"drain_s": drain_s}),
        }
    )
    podium = Podium(config, data_dir=None, collections=False, serving=True)
    await podium.start()
    server = Server(podium, guards=podium.call_guards)
    address = await server.start("127.0.0.1", 0)
    try:
        async with (
            administered(podium.administration, config.admin.host, config.admin.port) as at,
            grpc.aio.insecure_channel(address, options=OWN_CONNECTIONS) as channel,
            grpc.aio.insecure_channel(at, options=OWN_CONNECTIONS) as admin,
        ):
            yield Administered(podium, Stubs(channel, server, address), admin_service_pb2_grpc.AdminServiceStub(admin))
    finally:
        await server.stop()
        await podium.aclose()


async def test_an_unloaded_model_is_loaded_by_its_next_use() -> None:
    async with administering() as at:
        await at.served.rerank.Rerank(request(4))
        assert (await at.minilm()).loaded
        answer = await at.admin.UnloadModel(wire.UnloadModelRequest(model="minilm"))
        assert (answer.model.loaded, answer.model.refusing) == (False, False)
        # A compiled model of 22 million parameters: what frees nothing frees less than this.
        assert answer.freed_bytes > 5_000_000
        assert len((await at.served.rerank.Rerank(request(4))).ranking) == 4
        assert (await at.minilm()).loaded


async def test_an_unloaded_model_refuses_until_it_is_loaded_by_hand() -> None:
    async with administering(unloaded="refuse") as at:
        await at.admin.UnloadModel(wire.UnloadModelRequest(model="minilm"))
        error = await refused(at.served.rerank.Rerank(request(4)))
        assert error.code is grpc.StatusCode.UNAVAILABLE
        assert "LoadModel" in error.message
        loaded = await at.admin.LoadModel(wire.LoadModelRequest(model="minilm"))
        assert (loaded.model.loaded, loaded.model.refusing) == (True, False)
        assert len((await at.served.rerank.Rerank(request(4))).ranking) == 4


async def test_unloading_waits_for_what_runs() -> None:
    async with administering() as at:
        watch = at.podium.models_by_name.watch("minilm")
        generation = watch.admit()  # a round under way
        unloading = asyncio.ensure_future(at.admin.UnloadModel(wire.UnloadModelRequest(model="minilm")))
        await until(lambda: watch.unloaded)
        assert (await refused(at.served.rerank.Rerank(request(4)))).code is grpc.StatusCode.UNAVAILABLE
        assert (await at.minilm()).loaded
        assert not unloading.done()
        watch.ended(generation, well=True)
        assert not (await unloading).model.loaded


async def test_what_does_not_end_in_time_keeps_its_model() -> None:
    async with administering(drain_s=0.05) as at:
        at.podium.models_by_name.watch("minilm").admit()
        error = await refused(at.admin.UnloadModel(wire.UnloadModelRequest(model="minilm")))
        assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert len((await at.served.rerank.Rerank(request(4))).ranking) == 4


async def test_what_an_operator_may_get_wrong() -> None:
    async with administering() as at:
        nobody = await refused(at.admin.UnloadModel(wire.UnloadModelRequest(model="minilmm")))
        assert (nobody.code, "minilm" in nobody.message) == (grpc.StatusCode.NOT_FOUND, True)
        empty = await refused(at.admin.LoadModel(wire.LoadModelRequest()))
        assert empty.fields == ["model"]
        for wrong in (wire.SetLogLevelRequest(level="LOUD"), wire.SetLogLevelRequest(level="INFO", logger="no.such")):
            assert (await refused(at.admin.SetLogLevel(wrong))).code is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_breaker_of_a_model_is_told() -> None:
    async with administering() as at:
        watch = at.podium.models_by_name.watch("minilm")
        for _ in range(watch.settings.failures):
            watch.ended(watch.admit(), well=False)
        assert (await at.minilm()).breaker == wire.BREAKER_STATE_OPEN
        error = await refused(at.served.rerank.Rerank(request(4)))
        assert (error.code, error.info.reason) == (grpc.StatusCode.UNAVAILABLE, BackendDown.reason)
        assert error.info.metadata["breaker"] == "open"


async def test_the_level_of_one_logger_is_set_while_the_server_runs() -> None:
    name = "podium_server.transport.door"
    before = logging.getLogger(name).level
    async with administering() as at:
        try:
            told = await at.admin.SetLogLevel(wire.SetLogLevelRequest(level="DEBUG", logger=name))
            assert told.previous == logging.getLevelName(logging.getLogger().level)
            assert logging.getLogger(name).isEnabledFor(logging.DEBUG)
        finally:
            logging.getLogger(name).setLevel(before)


async def test_there_is_no_such_port_unless_it_is_asked_for() -> None:
    async with administered(object(), "127.0.0.1", load(None).admin.port) as address:  # type: ignore[arg-type]
        assert address == ""


def test_it_is_never_served_beyond_loopback() -> None:
    with pytest.raises(ConfigInvalid, match=r"admin\.host"):
        parse({"admin": {"host": "0.0.0.0", "port": 1}, "pipelines": {}}, where="x.toml")
