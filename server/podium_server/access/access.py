"""Everything of this room, put together for one server process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from podium_server.access import keys, secrets, treasury
from podium_server.access.fair_queue import FairQueue
from podium_server.access.gate import Gate
from podium_server.access.identity import caller, tenants_of
from podium_server.access.keys import KeyFile, KeyRing
from podium_server.access.meter import TICK_S, Meter
from podium_server.access.metering import Metering, Quoted
from podium_server.access.refusals import Refusals
from podium_server.access.treasury import Treasury
from podium_server.access.views import AllowedPipelines, inline_allowed
from podium_server.ranking.request import RankRequest

if TYPE_CHECKING:
    from podium_server.config import Config

log = logging.getLogger(__name__)

PipelineT = TypeVar("PipelineT")


class Access:
    """Who may call one server process, and how much of it. `start` before use, `aclose` at the end.

    Args:
        config: with `access.keys`.
        data_dir: of the server; keys and quotas are kept in it.
        clock: Unix time in seconds.

    Raises:
        ConfigInvalid: the pepper cannot be read.
        StoreError: quotas cannot be kept.

    """

    def __init__(self, config: Config, data_dir: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.refusals = Refusals()
        self.tenants = tenants_of(config.tenants)
        self.ring = KeyRing(keys_path(config, data_dir), lambda: pepper_of(config, data_dir))
        subjects = {subject: name for name, section in config.tenants.items() for subject in section.subjects}
        self.treasury = (
            Treasury(data_dir / treasury.FILE_NAME) if any(tenant.quotas for tenant in self.tenants.values()) else None
        )
        self.meter = None if self.treasury is None else Meter(self.treasury, self.refusals, clock)
        self.gate = Gate(self.ring, self.tenants, subjects, self.meter, self.refusals, clock=clock)
        section = config.access
        self.queue = FairQueue(config.limits.concurrent_requests, section.queue, section.wait_s, self.refusals)
        self.may = inline_allowed(self.refusals)
        self._challengers = {
            name: given.challenger.pipeline for name, given in config.pipelines.items() if given.challenger
        }
        self._ticking: asyncio.Task[None] | None = None

    def pipelines(self, everything: Mapping[str, PipelineT]) -> AllowedPipelines[PipelineT]:
        """Return the pipelines as the caller of the moment sees them."""
        return AllowedPipelines(everything, self.refusals, self._challengers)

    def metering(self, quote: Callable[[RankRequest], Quoted | None]) -> tuple[Metering, ...]:
        """Return the guards of requests: one where anybody has a quota."""
        return () if self.meter is None else (Metering(self.meter, quote),)

    async def place(self, deadline_at: float | None) -> Callable[[], None]:
        """Wait for a place among the requests at work; see `FairQueue.enter`."""
        return await self.queue.enter(caller().tenant, deadline_at)

    async def start(self) -> None:
        """Read the keys, and begin to follow them.

        Raises:
            ConfigInvalid, StoreError: they cannot be read.

        """
        await asyncio.to_thread(self.ring.open)
        if not self.ring.keys:
            log.warning("there is no API key yet (podium keys create): nobody can call but by a certificate")
        if self.meter is not None:
            self._ticking = asyncio.create_task(self._tick(self.meter), name="quotas")

    async def aclose(self) -> None:
        """Give back what was advanced and not used, and close the files."""
        if self._ticking is not None:
            self._ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticking
        if self.meter is not None:
            await self.meter.aclose()
        if self.treasury is not None:
            await self.treasury.aclose()
        await asyncio.to_thread(self.ring.close)

    async def _tick(self, meter: Meter) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            await meter.tick()


def keys_path(config: Config, data_dir: Path) -> Path:
    """Return where the keys are."""
    return config.access.keys_file or data_dir / keys.FILE_NAME


def pepper_of(config: Config, data_dir: Path, *, make: bool = False) -> secrets.Secret:
    """Return the pepper of a configuration; see `secrets.pepper`."""
    path = keys_path(config, data_dir)
    file = config.access.pepper_file or path.with_name(f"{path.name}.pepper")
    return secrets.pepper(env=config.access.pepper_env, file=file, make=make)


def key_file(config: Config, data_dir: Path) -> KeyFile:
    """Return the keys as the command line changes them. The pepper is made where there is none."""
    return KeyFile(keys_path(config, data_dir), pepper_of(config, data_dir, make=True))
