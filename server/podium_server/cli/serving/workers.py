"""One port, several processes: the parent that starts them, keeps them, and takes them down with it.

The parent holds the port (`transport.ports.reserved`) and answers no call. Workers are fresh processes, never forks:
gRPC and the models have threads, which a fork does not survive. Each is given the configuration through its standard
input, as it was when the parent read it, so that one that is started again serves what the others serve; and that pipe
stays open. When it ends, the parent is gone, however it went, and the worker drains and ends too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from podium_server.backends.processors import usable_processors
from podium_server.config import Config, OpenAIModel, RerankApiModel, RestSection, VllmModel
from podium_server.errors import ConfigInvalid, PodiumError
from podium_server.transport import ports

RESTARTS_WITHIN_S = 600.0
# So that a worker that dies at once, again and again, does not keep a core busy with dying.
_PAUSE_S = 0.5
# Beyond the time to drain: for models to be freed and the interpreter to end.
_GRACE_S = 10.0


class WorkersFailed(PodiumError):
    """A worker could not start, or too many died."""


def share(config: Config, processors: int) -> Config:
    """Return the configuration of one worker of `server.workers`.

    Processors and rates that are promised to others are divided: models of our own get an equal part of the
    processors, at least one, where their section names no `threads`; rate limits of endpoints are what all workers
    together keep. Limits of requests and queues, and caches in memory, are each worker's own: the kernel deals out
    connections, not evenly, and a worker must not refuse what another has room for.

    Raises:
        ConfigInvalid: what is configured cannot be had several times.

    """
    workers = config.server.workers
    if config.collections:
        named = ", ".join(sorted(config.collections))
        raise ConfigInvalid(
            f"server.workers is {workers}, and collections live in one process (configured: {named}); use one worker, "
            "or keep a server of its own for them"
        )
    models: dict[str, Any] = {}
    for name, section in config.models.items():
        if isinstance(section, VllmModel):
            raise ConfigInvalid(
                f"models.{name}: {workers} workers would load a model of vLLM {workers} times; serve it by vLLM's own "
                "server, and name that as backend 'openai'"
            )
        given: dict[str, int] = {}
        if "threads" in type(section).model_fields and getattr(section, "threads", None) is None:
            given["threads"] = max(1, processors // workers)
        if isinstance(section, OpenAIModel | RerankApiModel):
            rates = {rate: getattr(section, rate) for rate in ("requests_per_minute", "tokens_per_minute")}
            given |= {rate: max(1, most // workers) for rate, most in rates.items() if most is not None}
        models[name] = section.model_copy(update=given)
    return config.model_copy(update={"models": models})


def numbered(config: Config, number: int) -> Config:
    """Return the configuration of one worker: ports that cannot be shared follow one another, the first being 1's.

    Counters of several processes could be added up by one of them (prometheus_client's multiprocess mode, by files);
    gauges and queues could not, and a worker that hangs would not be seen. So each has a port of its own.
    """
    telemetry, admin = config.telemetry, config.admin
    if telemetry.metrics_port:
        telemetry = telemetry.model_copy(update={"metrics_port": telemetry.metrics_port + number - 1})
    if admin.port:
        admin = admin.model_copy(update={"port": admin.port + number - 1})
    return config.model_copy(update={"telemetry": telemetry, "admin": admin})


def environment(given: Mapping[str, str], threads: int) -> dict[str, str]:
    """Return a worker's environment: libraries that count the processors themselves (torch, BLAS) get the part, too."""
    return {"OMP_NUM_THREADS": str(threads), **given}


class Workers:
    """The processes of one server. `run` is called once.

    Args:
        config: of the server; `server.workers` says how many.
        ready: is told `host:port` once all of them answer.
        say: prints a sentence for whoever keeps the server.

    """

    def __init__(self, config: Config, ready: Callable[[str], None], say: Callable[[str], None]) -> None:
        processors = usable_processors()
        self._config = share(config, processors)
        self._environment = environment(os.environ, max(1, processors // config.server.workers))
        self._ready = ready
        self._say = say
        self._running: dict[int, Process] = {}
        self._died_at: deque[float] = deque()
        self._stopping = False

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then let all drain. A second signal is passed on as well, and hurries them.

        Raises:
            ConfigInvalid: nobody can listen there.
            WorkersFailed: a worker could not start, or more died than `server.worker_restarts`.

        """
        server = self._config.server
        loop = asyncio.get_running_loop()
        with ports.reserved(server.host, server.port) as port, self._rest_reserved() as rest:
            section = server.model_copy(update={"port": port})
            self._config = self._config.model_copy(update={"server": section, "rest": rest})
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stop)
            try:
                addresses = [f"{ports.shown(server.host)}:{port}"]
                if rest.port is not None:
                    scheme = "https" if self._config.tls.on else "http"
                    addresses.append(f"{scheme}://{ports.shown(rest.host)}:{rest.port}")
                await self._keep_all(addresses)
            except* WorkersFailed as failures:
                raise failures.exceptions[0] from None
            finally:
                self._stop()
                await self._emptied()

    @contextlib.contextmanager
    def _rest_reserved(self) -> Iterator[RestSection]:
        """Hold the port of REST, where there is one, as that of gRPC is held."""
        rest = self._config.rest
        if rest.port is None:
            yield rest
            return
        with ports.reserved(rest.host, rest.port) as port:
            yield rest.model_copy(update={"port": port})

    async def _keep_all(self, addresses: Sequence[str]) -> None:
        """Start the first worker, then the others, and keep all of them until they are told to stop.

        What the first one cannot do, nobody can; and what they share on disk, it has made before the others look.
        """
        async with asyncio.TaskGroup() as group:
            started: list[asyncio.Future[bool]] = []
            for number in range(1, self._config.server.workers + 1):
                started.append(asyncio.get_running_loop().create_future())
                group.create_task(self._keep(number, started[-1]))
                if number == 1 and not await started[0]:
                    return
            if all(await asyncio.gather(*started)):
                for address in addresses:
                    self._ready(address)

    async def _keep(self, number: int, started: asyncio.Future[bool]) -> None:
        """Run one worker, and another in its place when it dies. `started` tells whether it ever answered."""
        try:
            while not self._stopping:
                process = await self._spawn(number)
                assert process.stdout is not None  # for mypy: it is a pipe
                if await process.stdout.readline() and not started.done():
                    started.set_result(True)
                fate = _fate(await process.wait())
                if self._running.get(number) is process:
                    del self._running[number]
                if self._stopping:
                    return
                if not started.done():
                    raise WorkersFailed(f"worker {number} could not start: it {fate}")
                self._count_death(number, process.pid, fate)
                await asyncio.sleep(_PAUSE_S)
        finally:
            if not started.done():
                started.set_result(False)

    async def _spawn(self, number: int) -> Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "podium_server.cli.serving.worker"),
            stdin=PIPE,
            stdout=PIPE,
            env=self._environment,
            # A terminal sends Ctrl-C to all of a group: the workers hear of it from us, once.
            start_new_session=True,
        )
        self._running[number] = process
        if self._stopping:
            process.terminate()
        assert process.stdin is not None  # for mypy: it is a pipe
        # A pickle, because it keeps apart what a file set and what is usual.
        given = pickle.dumps(numbered(self._config, number))
        with contextlib.suppress(ConnectionError):  # it is dead already, as `wait` will tell
            process.stdin.write(len(given).to_bytes(8, "big") + given)
            await process.stdin.drain()
        return process

    def _count_death(self, number: int, pid: int, fate: str) -> None:
        """Say that a worker died, and end everything where too many did."""
        now = time.monotonic()
        self._died_at.append(now)
        while now - self._died_at[0] > RESTARTS_WITHIN_S:
            self._died_at.popleft()
        most = self._config.server.worker_restarts
        told = f"worker {number} (process {pid}) {fate}"
        minutes = f"{RESTARTS_WITHIN_S / 60:.0f} minutes"
        if len(self._died_at) > most:
            raise WorkersFailed(f"{told}; {len(self._died_at)} died in {minutes}, and server.worker_restarts is {most}")
        self._say(f"{told}; starting another ({len(self._died_at)} of at most {most} in {minutes})")

    def _stop(self) -> None:
        """Pass the end on. Whoever gets it a second time closes at once."""
        self._stopping = True
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()

    async def _emptied(self) -> None:
        """Wait until every worker has ended, and kill those that cannot."""
        left = list(self._running.values())
        if not left:
            return
        within_s = self._config.limits.drain_s + _GRACE_S
        _, still = await asyncio.wait([asyncio.ensure_future(process.wait()) for process in left], timeout=within_s)
        if still:
            self._say(f"{len(still)} workers did not end within {within_s:.0f} s and are killed")
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()


def _fate(code: int) -> str:
    """Return what became of a process, by its exit code."""
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"
