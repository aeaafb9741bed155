"""The server and the endpoint as child processes, which do not outlive this one."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.soak.account import Absence, Account
from tests.soak.place import DRAIN_S, Place

ROOT = Path(__file__).parents[2]
START_S = 90.0
STOP_S = DRAIN_S + 10.0
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


async def child(
    *command: str, log: IO[bytes] | int, stdin: int = asyncio.subprocess.DEVNULL
) -> asyncio.subprocess.Process:
    """Start a process of ours. A Ctrl-C at the terminal does not reach it."""
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=log,
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=_die_with_parent,  # nothing but prctl is called between fork and exec
    )


class DidNotStart(Exception):
    """The server ended before it listened."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(f"exit code {code}: {said}")
        self.code = code
        self.said = said


@dataclass(slots=True)
class ServerProcess:
    """`podium serve`, one life after the other.

    Args:
        place: with its configuration and its ports, which stay.
        account: is told of the times without a server.

    """

    place: Place
    account: Account
    life: int = 0
    process: asyncio.subprocess.Process | None = None
    unexpected: list[str] = field(default_factory=list)
    """Ends that nobody asked for."""
    drains_s: list[float] = field(default_factory=list)
    starts_s: list[float] = field(default_factory=list)
    _expected: bool = False
    _log: IO[bytes] | None = None
    _watch: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return None if self.process is None or self.process.returncode is not None else self.process.pid

    @property
    def log(self) -> Path:
        return self.place.folder / f"server-{self.life}.log"

    async def start(self) -> float:
        """Start, and return after how many seconds it listens.

        Raises:
            DidNotStart: it ended.
            TimeoutError: it neither listens nor ends.

        """
        began = time.monotonic()
        self.life += 1
        self._expected = False
        self._log = self.log.open("wb")
        command = (sys.executable, "-m", "podium_server", "serve", "--config", str(self.place.config))
        self.process = await child(*command, log=self._log)
        assert self.process.stdout is not None
        async with asyncio.timeout(START_S):
            for _ in range(2):  # gRPC and REST
                if not await self.process.stdout.readline():
                    code = await self.process.wait()
                    raise DidNotStart(code, self.log.read_text())
        now = time.monotonic()
        for absence in self.account.absences:
            absence.ended = absence.ended or now
        self._watch = asyncio.create_task(self._ends(self.process, self.life))
        self.starts_s.append(now - began)
        return now - began

    async def _ends(self, process: asyncio.subprocess.Process, life: int) -> None:
        code = await process.wait()
        if not self._expected:
            self.account.absences.append(Absence(time.monotonic(), drain=False))
            self.unexpected.append(f"life {life} ended by itself with {code}")

    async def drain(self) -> tuple[int, float]:
        """Send SIGTERM; return the exit code and the seconds until it came."""
        return await self._stop(signal.SIGTERM)

    async def kill(self) -> None:
        """Send SIGKILL."""
        await self._stop(signal.SIGKILL)

    async def _stop(self, number: signal.Signals) -> tuple[int, float]:
        assert self.process is not None
        began = time.monotonic()
        self._expected = True
        self.account.absences.append(Absence(began, drain=number == signal.SIGTERM))
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        try:
            async with asyncio.timeout(STOP_S):
                code = await self.process.wait()
        except TimeoutError:
            self.unexpected.append(f"life {self.life} did not end within {STOP_S:g} s of {number.name}")
            self.process.kill()
            code = await self.process.wait()
        took_s = time.monotonic() - began
        if number == signal.SIGTERM:
            self.drains_s.append(took_s)
        return code, took_s

    async def end(self) -> None:
        """Make sure that it is gone."""
        self._expected = True
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        if self._log is not None:
            self._log.close()

    def complaints(self) -> list[str]:
        """Return lines of all logs that tell of an error that nobody has foreseen."""
        found = []
        for path in sorted(self.place.folder.glob("server-*.log")):
            lines = path.read_text(errors="replace").splitlines()
            marks = ("Traceback", "an error of ours", "never retrieved", "Fatal Python error", "Segmentation")
            for number, line in enumerate(lines):
                if any(mark in line for mark in marks):
                    found.append(f"{path.name}:{number + 1}: " + " ⏎ ".join(lines[number : number + 40])[:4000])
        return found


@dataclass(slots=True)
class EndpointProcess:
    """The chat endpoint."""

    port: int
    log: Path
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            command = (sys.executable, "-m", "tests.soak.endpoint", str(self.port))
            self.process = await child(*command, log=log, stdin=asyncio.subprocess.PIPE)
        assert self.process.stdout is not None
        await asyncio.wait_for(self.process.stdout.readline(), 30)

    async def mode(self, name: str) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name}\n".encode())
        await self.process.stdin.drain()

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    async def end(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
