"""What is done to the server and to everything around it, one fault after the other, and how soon it recovers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from podium.v1 import budget_pb2, catalog_service_pb2
from tests.soak.nuisance import Slow, Vanishing, killed_client
from tests.soak.place import DISK_MIB
from tests.soak.processes import DidNotStart, EndpointProcess, ServerProcess
from tests.soak.world import Client, World, check_ranking
from tests.soak.writing import ReadBack, Writer, read_back

RECOVERY_MAX_S = 25.0
"""After a fault, until every pipeline answers as before; a breaker rests for 4 s at most."""
REVOKED_MAX_S = 1.5
"""A revoked key is refused within a second (docs/security.md), and a look from outside takes a moment, too."""
ROTATED_MAX_S = 1.0


@dataclass(slots=True)
class Fault:
    """One fault of the run, for the table."""

    name: str
    at_s: float
    lasted_s: float = 0.0
    recovered_s: float | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class Faults:
    """Does them.

    Args:
        world: of the run.
        server: on which it is done.
        endpoint: behind it.
        writers: whose documents are read back.

    """

    world: World
    server: ServerProcess
    endpoint: EndpointProcess
    writers: Sequence[Writer]
    done: list[Fault] = field(default_factory=list)
    read_backs: list[ReadBack] = field(default_factory=list)
    broken: dict[str, list[str]] = field(default_factory=dict)
    """Laws that are no request's own, and what broke them."""
    spends: list[str] = field(default_factory=list)
    revocations_s: list[float] = field(default_factory=list)
    rotations_s: list[float] = field(default_factory=list)

    def break_law(self, law: str, why: str) -> None:
        self.broken.setdefault(law, []).append(why)

    async def run(self, name: str, seconds: float) -> None:
        """Do one, wait until it is over, and until everything answers again."""
        account = self.world.account
        began = time.monotonic()
        fault = Fault(name, began - account.began_at)
        self.done.append(fault)
        account.phase = name
        doing: Callable[[Fault, float], Awaitable[None]] = getattr(self, name.replace(" ", "_").replace("-", ""))
        try:
            await doing(fault, seconds)
        except (OSError, RuntimeError, TimeoutError, grpc.aio.AioRpcError) as error:
            # What a fault itself needs of the server (a key made, a restart) is a law, too; the run goes on if it can.
            self.break_law("recovers", f"{name} at {fault.at_s:.0f} s: {error!r}")
        fault.lasted_s = time.monotonic() - began
        account.phase = "settling"
        fault.recovered_s = await self._recovered()
        if fault.recovered_s is None:
            self.break_law(
                "recovers", f"{name} at {fault.at_s:.0f} s: not everything answers {RECOVERY_MAX_S:g} s later"
            )
        await asyncio.sleep(1.0)
        account.phase = "steady"

    async def _recovered(self) -> float | None:
        """Return after how long every pipeline answers in full; None where that takes too long."""
        began = time.monotonic()
        probe = Client(self.world, "probe", "acme", 0.0)
        while time.monotonic() - began < RECOVERY_MAX_S:
            with contextlib.suppress(grpc.aio.AioRpcError, AssertionError):
                async with self.world.stubs() as stubs:
                    for pipeline in ("judged", "fallback", "balanced"):
                        budget = budget_pb2.Budget(on_exhausted=budget_pb2.ON_EXHAUSTED_FAIL)
                        request = probe.request(6, pipeline, budget=budget)
                        answer = await stubs.rerank.Rerank(request, timeout=3, metadata=self.world.metadata("acme"))
                        check_ranking(answer.ranking, 6)
                        probe.bill(answer.ledger)
                return time.monotonic() - began
            await asyncio.sleep(0.1)
        return None

    # --- the backend -------------------------------------------------------------------------------------------------

    async def backend_killed(self, fault: Fault, seconds: float) -> None:
        """Refuse connections: the endpoint is killed, and comes back on its port."""
        await self.endpoint.end()
        await asyncio.sleep(seconds)
        await self.endpoint.start()

    async def backend_hung(self, fault: Fault, seconds: float) -> None:
        """Accept and never answer: by itself, and then by a process that is stopped, whose kernel accepts."""
        await self.endpoint.mode("hung")
        await asyncio.sleep(seconds / 2)
        self.endpoint.send(signal.SIGSTOP)
        await asyncio.sleep(seconds / 2)
        self.endpoint.send(signal.SIGCONT)
        await self.endpoint.mode("normal")

    async def backend_garbage(self, fault: Fault, seconds: float) -> None:
        """Answer with pages, halves, resets and nonsense."""
        await self._misbehaving("garbage", seconds)

    async def backend_refusing(self, fault: Fault, seconds: float) -> None:
        """Answer 429, 500, 503, 529."""
        await self._misbehaving("refusing", seconds)

    async def _misbehaving(self, mode: str, seconds: float) -> None:
        await self.endpoint.mode(mode)
        await asyncio.sleep(seconds)
        await self.endpoint.mode("normal")

    # --- who may come in ---------------------------------------------------------------------------------------------

    async def certificate_rotated(self, fault: Fault, seconds: float) -> None:
        """Replace the certificate, then, after a while, the key that belongs to it; again and again."""
        place = self.world.place
        until = time.monotonic() + seconds
        times = 0
        while times == 0 or time.monotonic() < until:
            times += 1
            certificate, key = await asyncio.to_thread(place.sign)
            before = await self._served()
            place.install(certificate)
            await asyncio.sleep(0.3)  # half a rotation: new connections get the old certificate
            if (half := await self._served()) not in (before, None):
                self.break_law("certificates", f"half a rotation was served: {half}")
            place.install(key)
            began = time.monotonic()
            wanted = place.live_certificate()
            while await self._served() != (wanted, wanted):
                if time.monotonic() - began > ROTATED_MAX_S + 5:
                    break
                await asyncio.sleep(0.02)
            took_s = time.monotonic() - began
            self.rotations_s.append(took_s)
            if took_s > ROTATED_MAX_S:
                self.break_law("certificates", f"a new certificate was served after {took_s:.1f} s")
            await asyncio.sleep(0.5)
        fault.notes.append(f"{times} rotations, the last served after {self.rotations_s[-1] * 1000:.0f} ms")

    async def _served(self) -> tuple[bytes, bytes] | None:
        """Return what new connections are shown; None, and a broken law, where one gets no certificate at all."""
        place = self.world.place
        ports = (place.grpc_port, place.rest_port)
        try:
            one, two = await asyncio.gather(*(asyncio.to_thread(place.served_certificate, port) for port in ports))
        except OSError as error:
            self.break_law("certificates", f"a handshake failed: {error}")
            return None
        return one, two

    async def key_revoked(self, fault: Fault, seconds: float) -> None:
        """Make a key and revoke the old one by the command line, while both tenants work."""
        world = self.world
        for tenant in ("acme", "rival"):
            old = world.keys[tenant]
            new = await world.place.new_key(tenant)
            await asyncio.sleep(1.0)  # within which a new key is good
            world.keys[tenant] = new
            await asyncio.sleep(0.2)
            async with world.stubs() as stubs, world.http() as http:
                metadata = (("authorization", f"Bearer {old}"),)
                listing = catalog_service_pb2.ListPipelinesRequest()
                await stubs.catalog.ListPipelines(listing, timeout=3, metadata=metadata)
                await world.place.revoke(old)
                began = time.monotonic()
                while time.monotonic() - began < REVOKED_MAX_S + 5:
                    try:
                        await stubs.catalog.ListPipelines(listing, timeout=3, metadata=metadata)
                    except grpc.aio.AioRpcError as error:
                        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                            break
                        raise
                    await asyncio.sleep(0.02)
                took_s = time.monotonic() - began
                self.revocations_s.append(took_s)
                if took_s > REVOKED_MAX_S:
                    self.break_law("keys", f"a revoked key was good for {took_s:.1f} s more")
                refused = await http.post("/podium/v1/listPipelines", json={}, headers=dict(metadata), timeout=3)
                if refused.status_code != 401:
                    self.break_law("keys", f"a revoked key got {refused.status_code} over REST")
            fault.notes.append(f"{tenant}'s refused {took_s * 1000:.0f} ms after the command")
        await asyncio.sleep(max(0.0, seconds - 8))

    # --- clients -----------------------------------------------------------------------------------------------------

    async def clients_vanish(self, fault: Fault, seconds: float) -> None:
        """Calls cancelled, channels closed, sockets reset, processes killed."""
        until = time.monotonic() + seconds
        vanishing = [Vanishing(self.world, f"vanishing {i}", "acme", 0.0) for i in range(3)]

        async def vanish(client: Vanishing) -> int:
            times = 0
            while time.monotonic() < until:
                await client.once()
                times += 1
            return times

        killing = asyncio.gather(killed_client(self.world, "acme", 0.05), killed_client(self.world, "rival", 0.4))
        times = await asyncio.gather(*(vanish(client) for client in vanishing))
        await killing
        fault.notes.append(f"{sum(times)} clients, and 2 processes of 11 calls each")

    async def clients_read_slowly(self, fault: Fault, seconds: float) -> None:
        """Large answers, taken a little at a time, over gRPC and HTTP."""
        until = asyncio.Event()
        slow = [Slow(self.world, f"slow {i}", "acme", 0.0) for i in range(2)]
        reading = asyncio.gather(*(one.streaming(until) for one in slow), *(one.trickling(until) for one in slow))
        await asyncio.sleep(seconds)
        until.set()
        await reading

    # --- the server --------------------------------------------------------------------------------------------------

    async def drained_and_restarted(self, fault: Fault, seconds: float) -> None:
        """SIGTERM under load; what had begun goes on to its end."""
        code, took_s = await self.server.drain()
        if code != 0:
            self.break_law("drains", f"the exit code after SIGTERM is {code}")
        fault.notes.append(f"drained in {took_s:.1f} s")
        self._check_spend("a drain")
        await self._start(fault)

    async def drained_while_backend_hung(self, fault: Fault, seconds: float) -> None:
        """SIGTERM while calls wait for an endpoint that never answers."""
        await self.endpoint.mode("hung")
        await asyncio.sleep(min(2.0, seconds))
        code, took_s = await self.server.drain()
        if code != 0:
            self.break_law("drains", f"the exit code after SIGTERM is {code}")
        fault.notes.append(f"drained in {took_s:.1f} s")
        await self.endpoint.mode("normal")
        self._check_spend("a drain")
        await self._start(fault)

    async def killed(self, fault: Fault, seconds: float) -> None:
        """SIGKILL in the middle of everything."""
        await self.server.kill()
        self._check_spend("kill -9")
        await self._start(fault)

    async def _start(self, fault: Fault) -> None:
        took_s = await self.server.start()
        fault.notes.append(f"listening after {took_s:.1f} s")
        self.read_backs.append(await read_back(self.world, self.writers, fault.name))

    def _check_spend(self, when: str) -> None:
        """Compare what is on the disk with what was answered with a bill. The server is not there."""
        now = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            # A copy: to look at a WAL is to change it.
            for path in self.world.place.data.glob("quotas.sqlite*"):
                Path(folder, path.name).write_bytes(path.read_bytes())
            with contextlib.closing(sqlite3.connect(Path(folder, "quotas.sqlite"))) as connection:
                rows = connection.execute("SELECT tenant, unit, amount FROM used WHERE per = 'month'").fetchall()
        for tenant, unit, amount in rows:
            nano_usd, tokens = self.world.account.bill(tenant).certain(now)
            billed = nano_usd if unit == "nano_usd" else tokens
            self.spends.append(f"{when}, {tenant}, {unit}: {amount:,} on the disk, {billed:,} billed")
            if amount < billed:
                self.break_law("spend", self.spends[-1])

    # --- the disk ----------------------------------------------------------------------------------------------------

    async def disk_full(self, fault: Fault, seconds: float) -> None:
        """Fill the disk under load, and keep it full."""
        async with self._full():
            await asyncio.sleep(seconds)

    async def killed_on_a_full_disk(self, fault: Fault, seconds: float) -> None:
        """SIGKILL with the disk full; the server starts there, or says why it does not."""
        async with self._full():
            await asyncio.sleep(min(seconds, 4.0))
            await self.server.kill()
            self._check_spend("kill -9 on a full disk")
            try:
                took_s = await self.server.start()
                fault.notes.append(f"started on the full disk in {took_s:.1f} s")
            except DidNotStart as refusal:
                fault.notes.append(f"on the full disk it says: {refusal.said.strip().splitlines()[-1][:160]}")
                if "Traceback" in refusal.said:
                    self.break_law("starts", f"a traceback instead of a sentence: {refusal.said[-2000:]}")
        if self.server.pid is None:
            fault.notes.append(f"with room again after {await self.server.start():.1f} s")
        self.read_backs.append(await read_back(self.world, self.writers, fault.name))

    @asynccontextmanager
    async def _full(self) -> AsyncIterator[None]:
        filler = self.world.place.data / "filler"
        descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        async def fill() -> None:
            while True:
                for piece in (1 << 20, 1 << 12):
                    try:
                        for _ in range(DISK_MIB * 256):
                            os.write(descriptor, bytes(piece))
                    except OSError as error:
                        if error.errno != errno.ENOSPC:
                            raise
                await asyncio.sleep(0.05)

        filling = asyncio.create_task(fill())
        try:
            yield
        finally:
            filling.cancel()
            await asyncio.gather(filling, return_exceptions=True)
            os.close(descriptor)
            filler.unlink()
