"""One fault run: the schedule, the load beside it, and the laws at its end."""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from podium.v1 import index_service_pb2
from tests.soak import watching
from tests.soak.account import Account
from tests.soak.faults import Faults
from tests.soak.grpc_clients import Batching, Mistaken, Searching, Streaming, Unary
from tests.soak.place import TENANTS, Place
from tests.soak.processes import EndpointProcess, ServerProcess
from tests.soak.rest_clients import Dialect
from tests.soak.watching import Flatness, Sample
from tests.soak.world import World
from tests.soak.writing import COLLECTION, Writer, read_back
from tests.telemetry import scrape

LIVE = (
    "backend killed",
    "backend hung",
    "backend garbage",
    "backend refusing",
    "certificate rotated",
    "key revoked",
    "clients vanish",
    "clients read slowly",
)
"""Faults that one process of the server lives through."""
MORTAL = (
    "drained and restarted",
    "disk full",
    "killed",
    "killed on a full disk",
    "drained while backend hung",
    "killed",
)
DISK = ("disk full", "killed on a full disk")
LONG_S = 300.0
"""A run of so long does the first ones twice."""
REST_PART = 1.3
"""Between two faults, of the length of one."""


@dataclass(frozen=True, slots=True)
class Law:
    """A law and its verdict; None where this run cannot tell."""

    name: str
    kept: bool | None
    figure: str


@dataclass
class Run:
    """One run.

    Args:
        place: where it happens.
        seconds: how long it takes, about.
        seed: of the order of faults and of all requests.
        say: is told what happens.

    """

    place: Place
    seconds: float
    seed: int
    say: Callable[[str], None]
    account: Account = field(default_factory=Account)
    samples: list[Sample] = field(default_factory=list)
    laws: list[Law] = field(default_factory=list)
    left_at_end: dict[str, float] = field(default_factory=dict)
    lasted_s: float = 0.0

    def __post_init__(self) -> None:
        self.world = World(self.place, self.account, self.seed)
        self.world.write.set()
        self.world.load.set()
        self.server = ServerProcess(self.place, self.account)
        self.endpoint = EndpointProcess(self.place.endpoint_port, self.place.folder / "endpoint.log")
        self.writers = [
            Writer(self.world, "writer 1", "acme", 0.25),
            Writer(self.world, "writer 2", "acme", 0.25),
            Writer(self.world, "writer 3", "rival", 0.3, via="rest"),
        ]
        self.faults = Faults(self.world, self.server, self.endpoint, self.writers)

    def schedule(self) -> list[str]:
        """Return the faults in their order."""
        rng = random.Random(self.seed)
        live: list[str] = []
        for _ in range(2 if self.seconds >= LONG_S else 1):
            live += rng.sample(LIVE, len(LIVE))
        return live + [name for name in MORTAL if self.place.disk_is_small or name not in DISK]

    def clients(self) -> list[Callable[[], Awaitable[None]]]:
        """Return the load: fourteen clients and three writers."""
        world = self.world
        load = [
            Unary(world, "grpc rerank", "acme", 0.15, ("fast", "recall"), 16),
            Unary(world, "grpc judged", "acme", 0.15, ("judged",), 10, (0.6, 4.0)),
            Unary(world, "grpc fallback", "rival", 0.2, ("fallback", "judged"), 12),
            Unary(world, "grpc balanced", "rival", 0.5, ("balanced",), 8),
            Unary(world, "grpc new connection", "acme", 0.5, ("fast",), 6, connections="each"),
            Unary(world, "grpc poor", "poor", 0.7, ("fast", "judged"), 6),
            Streaming(world, "grpc stream", "rival", 0.2),
            Batching(world, "grpc batch", "acme", 0.6),
            Searching(world, "grpc search acme", "acme", 0.2),
            Searching(world, "grpc search rival", "rival", 0.3),
            Mistaken(world, "grpc mistakes", "acme", 0.5),
            Dialect(world, "rest cohere", "acme", 0.3, "cohere", ("fast", "judged")),
            Dialect(world, "rest tei", "rival", 0.3, "tei", ("fast", "fallback")),
            Dialect(world, "rest jina, new connection", "acme", 0.5, "jina", ("recall",), "each"),
            Dialect(world, "rest native", "rival", 0.3, "native", ("fast", "fallback", "judged")),
        ]
        return [*(one.run for one in load), *(one.run for one in self.writers)]

    async def go(self) -> None:
        """Do all of it. Whatever happens, no child is left."""
        try:
            await self.endpoint.start()
            for tenant in TENANTS:
                self.world.keys[tenant] = await self.place.new_key(tenant)
            self.say(f"the server listens after {await self.server.start():.1f} s")
            await self._make_collections()
            self.account.began_at = time.monotonic()
            await self._under_load()
            self._judge()
        finally:
            await self.server.end()
            await self.endpoint.end()

    async def _make_collections(self) -> None:
        async with self.world.stubs() as stubs:
            for tenant in ("acme", "rival"):
                made = index_service_pb2.Collection(name=COLLECTION)
                request = index_service_pb2.CreateCollectionRequest(collection=made)
                await stubs.index.CreateCollection(request, timeout=20, metadata=self.world.metadata(tenant))

    async def _under_load(self) -> None:
        state = lambda: (self.server.life, self.account.phase)  # noqa: E731
        watch = asyncio.create_task(watching.watch(lambda: self.server.pid, state, self.samples))
        load = [asyncio.create_task(client()) for client in self.clients()]  # type: ignore[arg-type]
        doing = asyncio.create_task(self._faults())
        try:
            done, _ = await asyncio.wait({doing, *load}, return_when=asyncio.FIRST_COMPLETED)
            if doing not in done:  # a client never ends by itself
                await next(iter(done))
                raise RuntimeError("a client has ended")
            await doing
            await self._quiet(load)
        finally:
            for task in (watch, doing, *load):
                task.cancel()
            await asyncio.gather(watch, doing, *load, return_exceptions=True)

    async def _faults(self) -> None:
        schedule = self.schedule()
        # A beginning without faults, as long as one; and what is done after them takes as long, too.
        each_s = self.seconds / (1 + (1 + REST_PART) * len(schedule))
        self.account.phase = "steady"
        await asyncio.sleep(each_s)
        for name in schedule:
            if self.server.pid is None:
                raise RuntimeError(f"there is no server: {self.server.unexpected}")
            self.say(f"{time.monotonic() - self.account.began_at:6.1f} s  {name}")
            began = time.monotonic()
            await self.faults.run(name, each_s)
            over_s = max(0.0, time.monotonic() - began - each_s)
            await asyncio.sleep(max(1.0, each_s * REST_PART - over_s))

    async def _quiet(self, load: Sequence[asyncio.Task[None]]) -> None:
        """End the load, and look at what is left of it in the server; then read everything back, and drain."""
        self.account.phase = "end"
        self.world.load.clear()
        while self.world.at_work:  # noqa: ASYNC110  # bounded by their deadlines
            await asyncio.sleep(0.05)
        self.world.stop.set()
        self.world.load.set()
        await asyncio.sleep(2.0)
        figures = await asyncio.to_thread(scrape.at, f"127.0.0.1:{self.place.metrics_port}")
        for name in ("podium_calls_running", "podium_requests_running", "podium_queue_depth"):
            self.left_at_end[name] = figures(name)
        self.faults.read_backs.append(await read_back(self.world, self.writers, "the end"))
        self.lasted_s = time.monotonic() - self.account.began_at
        code, _ = await self.server.drain()
        if code != 0:
            self.faults.break_law("drains", f"the exit code after SIGTERM is {code}")
        self.faults._check_spend("the end")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*load, return_exceptions=True), 10)

    # --- the laws ----------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        account, faults, server = self.account, self.faults, self.server
        lost = [each for reading in faults.read_backs for each in reading.lost]
        read = sum(reading.documents for reading in faults.read_backs)
        acknowledged = sum(writer.known.upserts + writer.known.deletes for writer in self.writers)
        unanswered = account.of_kind("broken")
        complaints = server.complaints()
        left = {name: value for name, value in self.left_at_end.items() if value}
        said: list[tuple[str, Sequence[str], str]] = [
            (
                "nothing acknowledged is lost",
                lost,
                f"{acknowledged:,} documents acknowledged, {read:,} read back in {len(faults.read_backs)} readings",
            ),
            (
                "every request has a checked answer or a typed error",
                account.details if unanswered else [],
                f"{account.requests:,} requests, {unanswered} broken",
            ),
            (
                "spend on the disk is never less than what was billed",
                faults.broken.get("spend", []),
                f"{len(faults.spends)} comparisons without a server",
            ),
            (
                f"a revoked key is refused within {1.0:g} s",
                faults.broken.get("keys", []),
                f"{_most(faults.revocations_s)} at most, {len(faults.revocations_s)} times",
            ),
            (
                "a new certificate is served, half a rotation never",
                faults.broken.get("certificates", []),
                f"{_most(faults.rotations_s)} at most, {len(faults.rotations_s)} times",
            ),
            (
                "everything answers in full again after a fault",
                [*faults.broken.get("recovers", []), *faults.broken.get("starts", [])],
                f"{_most([each.recovered_s for each in faults.done if each.recovered_s is not None])} at most",
            ),
            (
                "the server ends only when it is told to, by itself and with 0",
                [*server.unexpected, *faults.broken.get("drains", [])],
                f"{server.life} starts, {len(server.drains_s)} drains of {_most(server.drains_s)} at most",
            ),
            ("no traceback in its log", complaints, f"{len(complaints)} of them"),
            (
                "nothing is left of a load that is over",
                [f"{name} is {value:g}" for name, value in left.items()],
                ", ".join(f"{name.removeprefix('podium_')} {value:g}" for name, value in self.left_at_end.items()),
            ),
        ]
        self.laws = [Law(name, not why, figure if not why else f"{figure}: {why[0]}") for name, why, figure in said]
        self.laws += [self._flat(*given) for given in _FLAT]
        if not self.place.disk_is_small:
            self.laws.append(Law("the disk may be full", None, "no tmpfs could be mounted here"))

    def _flat(self, name: str, field: str, slack: float, unit: str) -> Law:
        found = self.flatness(field, slack)
        figures = "; ".join(f"{each.warm:.0f} → {each.last:.0f}{unit}" for each in found)
        if not found:
            return Law(name, None, f"no life of the server had {watching.SAMPLES_MIN} steady seconds")
        return Law(name, all(each.flat for each in found), figures)

    def flatness(self, field: str, slack: float) -> list[Flatness]:
        """Return how memory or descriptors went, life by life."""
        return watching.flatness(self.samples, field, slack)


_FLAT = (
    ("memory (RSS) is flat", "rss_mib", watching.MEMORY_SLACK_MIB, " MiB"),
    ("file descriptors are flat", "fds", watching.FDS_SLACK, ""),
)


def _most(times_s: Sequence[float]) -> str:
    return f"{max(times_s):.2f} s" if times_s else "never"


def median_ms(times_s: Sequence[float]) -> float:
    return statistics.median(times_s) * 1000 if times_s else 0.0
