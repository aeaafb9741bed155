"""The engine of a job: a reader in a thread of its own, many lists at work side by side, one writer in input order.

At most `2 × concurrency` lists exist at any time (more where `patience` is more): at work, waiting for their turn to be
written, or read ahead. A place is taken before a line is read and given back after its answer is written, so that
neither a slow disk nor one slow list at the head makes memory grow.

Lists side by side are also what fills the models' batches: every list asks its rounds as soon as they are ready, and
whoever runs a model (a queue in front of a cross-encoder, vLLM in the process, an endpoint) merges what is asked at the
same moment. `podium_strategies.drive.run_many` is the pure form of the same thing: one thread, one batch a tick, for a
panel that answers at once; it is used where there is nothing to wait for (tests, forecasts, oracles).

A ranker that asks nobody (`InstantRanker`) has nothing to wait for either: its lists are ranked where they stand, one
after another, without a task for each; those of a file without the reader's thread, too (two threads that share one
interpreter take longer than one).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice, takewhile

from podium_server.errors import InvalidRequest
from podium_server.jobs.budget import BudgetSpent
from podium_server.jobs.lists import BadLine, CandidateList, Line
from podium_server.jobs.ranking import Answer, Failed, InstantRanker, Ranker
from podium_server.jobs.reader import Reader

INVALID_LINE = "INVALID_LINE"

# Lists that are read ahead of an instant ranker, and those that it ranks before others (signals) get their turn.
_INSTANT_PLACES = 1024
_INSTANT_AT_ONCE = 64


class ListFailed(Exception):
    """A list failed in a job that stops at the first failure. It is not written: what was done before is."""

    def __init__(self, answer: Failed) -> None:
        super().__init__(answer.message)
        self.answer = answer


class Outage(Exception):
    """Nobody answered so many lists in a row. They are not written, so that the next run asks them again."""

    def __init__(self, answer: Answer, lists: int) -> None:
        said = answer.message if isinstance(answer, Failed) else "; ".join(warned.message for warned in answer.warnings)
        super().__init__(said)
        self.reason = _reason(answer)
        self.message = said
        self.lists = lists


# What the next list would meet, too, whatever is in it.
_OF_AN_OUTAGE = frozenset(
    {"BACKEND_DOWN", "BACKEND_REFUSED", "UNAVAILABLE", "UNAUTHENTICATED", "PERMISSION_DENIED", "QUOTA_EXCEEDED"}
)

Gate = Callable[[int], str]
"""Is asked before a list begins, with the number of those at work; returns why it must not, or nothing."""


@dataclass(slots=True)
class Engine:
    """Ranks a stream of lists. `run` is called once.

    Args:
        ranker: puts one list in order.
        write: is given every answer, in the order of the input.
        concurrency: lists at work at the same time.
        strict: stop at the first list that fails, or line that is no list.
        patience: stop when so many lists in a row found nobody to answer; 0 writes their errors and goes on.
        gate: of a budget.

    """

    ranker: Ranker
    write: Callable[[Answer], None]
    concurrency: int = 64
    strict: bool = False
    patience: int = 0
    gate: Gate | None = None
    _window: deque[asyncio.Task[Answer]] = field(init=False, default_factory=deque)
    _running: int = field(init=False, default=0)
    _moved: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _ended: int = field(init=False, default=0)
    _ended_at: dict[asyncio.Task[Answer], int] = field(init=False, default_factory=dict)
    """Of each task of the window that has ended: as the how manieth."""
    _answered_last: int = field(init=False, default=0)
    """The last of them that is of no outage."""
    _places: int = field(init=False, default=0)
    _next: Line | None = field(init=False, default=None)
    """A line that the gate has not let in yet."""

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"concurrency is {self.concurrency}: at least 1")

    async def run(self, lines: Iterator[Line], *, from_file: bool = False) -> None:
        """Rank all lists. What was written when an error or a cancellation ends it stays written.

        Args:
            lines: to rank.
            from_file: the next line is always there, as in a file, and not in a pipe.

        Raises:
            ListFailed: where the job is strict.
            Outage: nobody answered for as long as `patience` allows.
            BudgetSpent: the gate let no more lists in. Those at work were finished.
            Exception: whatever `write` raises, and what is no `PodiumError` from the ranker.
            asyncio.CancelledError: lists at work are cancelled first; those at the head that were done are written.

        """
        instant = self.ranker if isinstance(self.ranker, InstantRanker) else None
        if instant and from_file:
            await self._rank_file(instant, lines)
            return
        # An outage is known by lists that wait for each other, so that all of them need a place.
        self._places = _INSTANT_PLACES if instant else self.concurrency + max(self.concurrency, self.patience)
        reader = Reader(lines, self._places, self._moved)
        reader.start()
        try:
            await (self._rank_at_once(instant, reader) if instant else self._rank_side_by_side(reader))
            reader.check()
        except asyncio.CancelledError:
            # Nothing stands in the way of what is done at the head; what is done behind a gap has to wait there.
            while self._window and _has_answer(self._window[0]) and not self._held(self._window[0].result()):
                self._write_head()
            raise
        finally:
            reader.stop()
            for task in self._window:
                task.cancel()
            await asyncio.gather(*self._window, return_exceptions=True)

    def unwritten(self) -> Iterator[Answer]:
        """Yield the answers that wait for their turn to be written."""
        for task in self._window:
            if _has_answer(task):
                yield task.result()

    # --- one after another --------------------------------------------------------------------------------------

    async def _rank_file(self, ranker: InstantRanker, lines: Iterator[Line]) -> None:
        while some := list(islice(lines, _INSTANT_AT_ONCE)):
            for line in some:
                self._rank_now(ranker, line)
            await asyncio.sleep(0)

    def _rank_now(self, ranker: InstantRanker, line: Line) -> None:
        if self.gate is not None and (refusal := self.gate(0)):
            raise BudgetSpent(refusal)
        answer = ranker.rank_now(line) if isinstance(line, CandidateList) else _invalid(line)
        self._check(answer)
        self.write(answer)

    async def _rank_at_once(self, ranker: InstantRanker, reader: Reader) -> None:
        while True:
            self._moved.clear()
            for _ in range(_INSTANT_AT_ONCE):
                if (line := reader.take()) is None:
                    break
                self._rank_now(ranker, line)
                reader.give_back()
            else:
                await asyncio.sleep(0)
                continue
            if reader.exhausted:
                return
            await reader.wait()

    # --- side by side -------------------------------------------------------------------------------------------

    async def _rank_side_by_side(self, reader: Reader) -> None:
        while True:
            self._moved.clear()
            self._write_finished(reader)
            refusal = self._begin_what_may(reader)
            if refusal and not self._running:
                # What stands in the window is held: nobody answered it, and the next run asks it again.
                raise BudgetSpent(refusal)
            if reader.exhausted and self._next is None and not self._window:
                return
            if not self._writable(reader):
                if refusal or self._running >= self.concurrency or reader.exhausted:
                    await self._moved.wait()
                else:
                    await reader.wait()

    def _begin_what_may(self, reader: Reader) -> str:
        """Begin as many lists as there are places for; return why no more may, if a budget says so."""
        while self._running < self.concurrency:
            self._next = self._next or reader.take()
            if self._next is None:
                break
            if isinstance(self._next, CandidateList) and self.gate and (refusal := self.gate(self._running)):
                return refusal
            line, self._next = self._next, None
            self._running += 1
            task = asyncio.create_task(self._answer(line))
            task.add_done_callback(self._done)
            self._window.append(task)
        return ""

    async def _answer(self, line: Line) -> Answer:
        answer = await self.ranker.rank(line) if isinstance(line, CandidateList) else _invalid(line)
        # Here, and not in `_done`, which may be called a turn later than the task is seen to be done.
        task = asyncio.current_task()
        assert task is not None
        self._ended += 1
        self._ended_at[task] = self._ended
        if _was_asked(line, answer) and not self._held(answer):
            self._answered_last = self._ended
        return answer

    def _done(self, task: asyncio.Task[Answer]) -> None:
        self._running -= 1
        self._moved.set()

    def _write_finished(self, reader: Reader) -> None:
        while self._writable(reader):
            self._write_head()
            reader.give_back()

    def _writable(self, reader: Reader) -> bool:
        """Whether the answer at the head can be written.

        A list that nobody answered waits for somebody to answer after it: an outage is a matter of the job, not of its
        lists. Who answered before it, though further behind in the input, says nothing of it.
        """
        if not self._window or not self._window[0].done():
            return False
        head = self._window[0]
        if not self._held(head.result()):
            return True
        if self._ended_at[head] < self._answered_last:
            return True
        ended = list(takewhile(asyncio.Task.done, self._window))
        failed = [task for task in ended if self._held(task.result()) and self._ended_at[task] > self._answered_last]
        if len(failed) >= self.patience:
            raise Outage(failed[self.patience - 1].result(), self.patience)
        # Nobody will answer after it: the input has ended, or there is no place for another list.
        no_more = (reader.exhausted and self._next is None) or len(self._window) >= self._places
        return no_more and len(ended) == len(self._window)

    def _held(self, answer: Answer) -> bool:
        """Whether an answer may be of an outage, and is not written before the outage is over."""
        return bool(self.patience) and _reason(answer) in _OF_AN_OUTAGE

    def _write_head(self) -> None:
        """Write the first answer of the window. One that ends a strict job stays there: it was paid for."""
        answer = self._window[0].result()
        self._check(answer)
        # Out of the window first: what was handed to the writer is not unwritten any more.
        self._ended_at.pop(self._window.popleft(), None)
        self.write(answer)

    def _check(self, answer: Answer) -> None:
        if self.strict and isinstance(answer, Failed):
            raise ListFailed(answer)


def _reason(answer: Answer) -> str:
    """Return the reason of the error that a list met; empty where it met none, or nobody says."""
    return answer.cause or (answer.reason if isinstance(answer, Failed) else "")


def _was_asked(line: Line, answer: Answer) -> bool:
    """Tell whether an answer says that somebody is there. A list that is none, is empty or is refused asks nobody."""
    return isinstance(line, CandidateList) and bool(line.docids) and _reason(answer) != InvalidRequest.reason


def _has_answer(task: asyncio.Task[Answer]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _invalid(line: BadLine) -> Failed:
    return Failed(line.line, line.qid, INVALID_LINE, line.message, seal=line.seal)
