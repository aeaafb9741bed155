"""Models in and out of memory while the server runs."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from podium_server.errors import DeadlineExceeded, FailedPrecondition, NotFound

if TYPE_CHECKING:
    from podium_server.compose.podium import Podium

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model, and what it does now."""

    name: str
    backend: str
    loaded: bool
    refusing: bool
    running: int
    breaker: int


class Administration:
    """What an operator may do to a server's models.

    Args:
        podium: the server, watching over its models.
        refuse: whether an unloaded model refuses until it is loaded by hand; else its next use loads it.

    """

    def __init__(self, podium: Podium, *, refuse: bool) -> None:
        self._models = podium.models_by_name
        self._wait_s = podium.limits.drain_s
        self._refuse = refuse
        self._busy: dict[str, asyncio.Lock] = {}

    def models(self) -> tuple[ModelStatus, ...]:
        """Return all models, by name."""
        return tuple(self._status(name) for name in sorted(self._models.config.models))

    def resident_bytes(self) -> int:
        """Return the memory of this process that is in use."""
        try:
            return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
        except OSError:  # not Linux
            return 0

    async def load(self, model: str) -> ModelStatus:
        """Load a model and take it into service.

        Raises:
            NotFound: no model of that name.
            PodiumError: it cannot be loaded.

        """
        watch = self._models.watch(model)
        async with self._lock(model):
            if model in self._models.cross_encoders:
                await self._models.cross_encoders[model].batcher()
            elif model in self._models.encoders:
                await self._models.encoders[model].encoder()
            watch.unloaded = False
        return self._status(model)

    async def unload(self, model: str) -> tuple[ModelStatus, int]:
        """Take a model out of service and free its memory; return how it is then, and the bytes that were freed.

        Raises:
            NotFound: no model of that name.
            FailedPrecondition: it is not in this process, or not ours to free.
            DeadlineExceeded: it was at work for too long, and stays in service.

        """
        watch = self._models.watch(model)
        free = self._free(model)
        async with self._lock(model):
            before, refusing = self.resident_bytes(), watch.unloaded
            watch.unloaded = True
            try:
                async with asyncio.timeout(self._wait_s):
                    await watch.idle()
                await asyncio.to_thread(free)
            except BaseException as error:
                watch.unloaded = refusing
                if isinstance(error, TimeoutError):
                    raise DeadlineExceeded(
                        f"the model {model!r} was still at work after limits.drain_s, {self._wait_s:g} s; it stays in "
                        "service"
                    ) from error
                raise
            watch.unloaded = self._refuse
        return self._status(model), before - self.resident_bytes()

    def _free(self, model: str) -> Callable[[], None]:
        seat = self._models.cross_encoders.get(model) or self._models.encoders.get(model)
        if seat is None:
            section = self._models.section(model)  # NotFound comes first
            raise FailedPrecondition(
                f"the model {model!r} (backend {section.backend!r}) holds no memory of this process that could be freed"
            )

        def free() -> None:
            seat.unload()
            _give_back()

        return free

    def _lock(self, model: str) -> asyncio.Lock:
        return self._busy.setdefault(model, asyncio.Lock())

    def _status(self, name: str) -> ModelStatus:
        card = next((card for card in self._models.cards() if card.name == name), None)
        if card is None:
            raise NotFound("model", name, tuple(self._models.config.models))
        watch = self._models.watch(name)
        return ModelStatus(name, card.backend, card.ready, watch.unloaded, watch.running, int(watch.phase))


def _give_back() -> None:
    """Return freed memory to the system: what stood in cycles since the start, and what the allocator keeps."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    with suppress(OSError, AttributeError):  # no glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
