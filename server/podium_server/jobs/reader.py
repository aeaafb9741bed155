"""The thread that reads a job's lists ahead, as many as there are places."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator

from podium_server.jobs.lists import Line

# Between two looks of the reading thread at whether the job has ended: shorter than anybody notices.
_LOOK_S = 0.1
# A thread that waits for places is woken for this many, or for a quarter of all: waking costs as much as reading ten.
_PLACES_WORTH_WAKING = 64


class Reader(threading.Thread):
    """Reads lines ahead. A daemon: a pipe that nobody writes to must not keep us alive.

    The job's loop is woken only while it waits, so that neither thread costs the other more than a few instructions
    a line. Each of the two counters is written by one thread alone.

    Args:
        lines: are read in this thread.
        places: lines that may be in the job at a time.
        moved: is set when there is something to take, or nothing more will be.

    """

    def __init__(self, lines: Iterator[Line], places: int, moved: asyncio.Event) -> None:
        super().__init__(name="podium-job-reader", daemon=True)
        self._lines = lines
        self._places = places
        self._worth_waking = max(1, min(_PLACES_WORTH_WAKING, places // 4))
        self._taken = 0
        self._given_back = 0
        self._full = False
        self._room = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._moved = moved
        self._idle = False
        self._read: deque[Line] = deque()
        self._over = False
        self._stopped = False
        self._error: BaseException | None = None

    # --- in the thread ------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Read until the end, or until the job has ended."""
        try:
            while self._place_taken() and (line := next(self._lines, None)) is not None:
                self._read.append(line)
                if self._idle:
                    self._wake()
        except Exception as error:  # noqa: BLE001  # raised again by `check`, where the job can see it
            self._error = error
        self._over = True
        self._wake()

    def _place_taken(self) -> bool:
        if self._taken - self._given_back >= self._places:
            self._full = True
            while not (self._stopped or self._may_go_on()):
                self._room.wait(_LOOK_S)
                self._room.clear()
            self._full = False
        self._taken += 1
        return not self._stopped

    def _may_go_on(self) -> bool:
        # Where the loop waits for a line, one place is worth waking for: nobody else gives any back.
        free = self._places - (self._taken - self._given_back)
        return free >= (1 if self._idle else self._worth_waking)

    def _wake(self) -> None:
        self._idle = False
        try:
            self._loop.call_soon_threadsafe(self._moved.set)
        except RuntimeError:  # the loop is closed: the job has ended without us
            self._stopped = True

    # --- in the loop --------------------------------------------------------------------------------------------

    def take(self) -> Line | None:
        """Return the next line, if one was read."""
        return self._read.popleft() if self._read else None

    def give_back(self) -> None:
        """Give a line's place back: its answer is written."""
        self._given_back += 1
        if self._full and self._may_go_on():
            self._room.set()

    async def wait(self) -> None:
        """Wait until something moves: a line was read, or whoever else sets the event."""
        self._idle = True
        # A line may have come between the caller's look and our word that we wait. (The end always wakes.)
        if not self._read:
            if self._full:
                self._room.set()
            await self._moved.wait()
        self._idle = False

    @property
    def exhausted(self) -> bool:
        """Whether everything was read and taken."""
        # The order of the two reads matters: the thread appends its last line before it says that it is over.
        return self._over and not self._read

    def stop(self) -> None:
        """Read no more."""
        self._stopped = True
        self._room.set()

    def check(self) -> None:
        """Raise what ended the reading, if it was an error."""
        if self._error is not None:
            raise self._error
