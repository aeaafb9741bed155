"""The engine of a job: a reader in a thread of its own, many lists at work side by side, one writer in input order.

At most `2 × concurrency` lists exist at any time: at work, waiting for their turn to be written, or read ahead. A place
is taken before a line is read and given back after its answer is written, so that neither a slow disk nor one slow list
at the head makes memory grow.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from podium_server.jobs.lists import BadLine, CandidateList, Line
from podium_server.jobs.ranking import Answer, Failed, Ranker

INVALID_LINE = "INVALID_LINE"


class ListFailed(Exception):
    """A list failed in a job that stops at the first failure. It is written, and so is what was done before."""

    def __init__(self, answer: Failed) -> None:
        super().__init__(answer.message)
        self.answer = answer


# Between two looks of the reading thread at whether the job has ended: shorter than anybody notices.
_LOOK_S = 0.1


@dataclass(slots=True)
class Engine:
    """Ranks a stream of lists. `run` is called once.

    Args:
        ranker: puts one list in order.
        write: is given every answer, in the order of the input.
        concurrency: lists at work at the same time.
        strict: stop at the first list that fails, or line that is no list.

    """

    ranker: Ranker
    write: Callable[[Answer], None]
    concurrency: int = 64
    strict: bool = False
    _window: deque[asyncio.Task[Answer]] = field(init=False, default_factory=deque)
    _running: int = field(init=False, default=0)
    _moved: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"concurrency is {self.concurrency}: at least 1")

    async def run(self, lines: Iterator[Line]) -> None:
        """Rank all lists. What was written when an error or a cancellation ends it stays written.

        Raises:
            ListFailed: where the job is strict.
            Exception: whatever `write` raises, and what is no `PodiumError` from the ranker.
            asyncio.CancelledError: lists at work are cancelled first; those that were done are written.

        """
        reader = _Reader(lines, 2 * self.concurrency, self._moved)
        reader.start()
        try:
            while True:
                self._moved.clear()
                self._write_finished(reader)
                while self._running < self.concurrency and (line := reader.take()) is not None:
                    self._begin(line)
                if reader.exhausted and not self._window:
                    break
                if not (self._window and self._window[0].done()):
                    await self._moved.wait()
            reader.check()
        finally:
            reader.stop()
            await self._wind_up()

    def _begin(self, line: Line) -> None:
        self._running += 1
        task = asyncio.create_task(self._answer(line))
        task.add_done_callback(self._done)
        self._window.append(task)

    async def _answer(self, line: Line) -> Answer:
        match line:
            case CandidateList():
                return await self.ranker.rank(line)
            case BadLine():
                return Failed(line.line, line.qid, INVALID_LINE, line.message)

    def _done(self, task: asyncio.Task[Answer]) -> None:
        self._running -= 1
        self._moved.set()

    def _write_finished(self, reader: _Reader) -> None:
        while self._window and self._window[0].done():
            answer = self._window.popleft().result()
            self.write(answer)
            reader.give_back()
            if self.strict and isinstance(answer, Failed):
                raise ListFailed(answer)

    async def _wind_up(self) -> None:
        """Cancel what is at work, and write what was done behind it: it was paid for."""
        tasks, self._window = list(self._window), deque()
        finished = [task for task in tasks if task.done() and not task.cancelled() and task.exception() is None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in finished:
            self.write(task.result())


class _Reader(threading.Thread):
    """Reads lines ahead, as many as there are places. A daemon: a pipe that nobody writes to must not keep us alive."""

    def __init__(self, lines: Iterator[Line], places: int, moved: asyncio.Event) -> None:
        super().__init__(name="podium-job-reader", daemon=True)
        self._lines = lines
        self._places = threading.Semaphore(places)
        self._loop = asyncio.get_running_loop()
        self._moved = moved
        self._read: deque[Line] = deque()
        self._over = False
        self._stopped = False
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            while self._place_taken() and (line := next(self._lines, None)) is not None:
                self._read.append(line)
                self._wake()
        except Exception as error:  # noqa: BLE001  # raised again by `check`, where the job can see it
            self._error = error
        self._over = True
        self._wake()

    def _place_taken(self) -> bool:
        while not self._stopped:
            if self._places.acquire(timeout=_LOOK_S):
                return not self._stopped
        return False

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._moved.set)
        except RuntimeError:  # the loop is closed: the job has ended without us
            self._stopped = True

    def take(self) -> Line | None:
        return self._read.popleft() if self._read else None

    def give_back(self) -> None:
        self._places.release()

    @property
    def exhausted(self) -> bool:
        # The order of the two reads matters: the thread appends its last line before it says that it is over.
        return self._over and not self._read

    def stop(self) -> None:
        self._stopped = True

    def check(self) -> None:
        if self._error is not None:
            raise self._error
