"""What the jobs of this package hand to the engine: lines made of one item, what was counted, and its bill."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from podium_server.accounting.ledger import Ledger
from podium_server.errors import PodiumError
from podium_server.jobs.ledgers import enter, joined
from podium_server.jobs.lists import CandidateList
from podium_server.jobs.ranking import COMPLETE, Failed, Ranked, failed
from podium_server.jobs.results import LEDGER, OUT, ledger_record
from podium_server.jobs.results import Results as RankedResults
from podium_server.labels.format import written
from podium_server.ranking.request import Outcome, Warned


@dataclass(frozen=True, slots=True, kw_only=True)
class Made(Ranked):
    """Lines that were made of one item of a job.

    Args:
        lines: of the output, as data.
        counts: what the summary tells, by sentences' ends ("negatives", "dropped as false negatives").

    """

    lines: tuple[Mapping[str, Any], ...]
    counts: Mapping[str, float] = field(default_factory=dict)


def made(
    given: CandidateList,
    lines: tuple[Mapping[str, Any], ...],
    counts: Mapping[str, float],
    bill: Bill,
    warnings: tuple[Warned, ...] = (),
) -> Made:
    """Return what became of an item."""
    return Made(given, (), (), COMPLETE, bill.total(), warnings, lines=lines, counts=counts)


class Incomplete(Exception):
    """The pipeline did not end: what it has is no verdict of the teacher's."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.cause)
        self.outcome = outcome


@dataclass(slots=True)
class Bill:
    """The ledgers that one item has opened."""

    ledgers: list[Ledger] = field(default_factory=list)

    def opened(self, ledger: Ledger) -> None:
        """Take a ledger that somebody writes from now on."""
        self.ledgers.append(ledger)

    def total(self) -> Ledger:
        """Return the sum of all of them, as they are now."""
        return joined(self.ledgers)

    def failed(self, given: CandidateList, error: PodiumError) -> Failed:
        """Return the failure of an item, with everything that was spent on it."""
        told = failed(given, error)
        return Failed(told.line, told.qid, told.reason, told.message, self.total(), told.seal)

    def incomplete(self, given: CandidateList, outcome: Outcome) -> Failed:
        """Return the failure of an item on which the teacher did not end: half an order is no verdict."""
        message = f"the teacher did not end: {outcome.cause or outcome.completion.value}"
        reason, cause = outcome.completion.name, outcome.cause_reason
        return Failed(given.line, given.qid, reason, message, self.total(), given.seal, cause)


@dataclass(slots=True)
class Bills:
    """The bills of the items at work, so that what is spent on an item that never ends is known as well."""

    _at_work: dict[int, Bill] = field(init=False, default_factory=dict)
    _cancelled: Ledger = field(init=False, default_factory=Ledger)

    @contextlib.contextmanager
    def item(self) -> Iterator[Bill]:
        """Give the bill of one item. Left by an error that is no answer, it counts as spent in vain."""
        bill = Bill()
        self._at_work[id(bill)] = bill
        answered = False
        try:
            yield bill
            answered = True
        finally:
            del self._at_work[id(bill)]
            if not answered:
                enter(self._cancelled, bill.total())

    def unfinished(self) -> Ledger:
        """Return what was spent on items without an answer; see `jobs.ranking.Ranker`."""
        return joined((self._cancelled, *(bill.total() for bill in self._at_work.values())))


@dataclass(slots=True)
class MadeResults(RankedResults):
    """Writes what was made to the files of a job. Lines of the output hold nothing that differs between two runs."""

    counts: dict[str, float] = field(default_factory=dict)

    def write(self, answer: Ranked | Failed) -> None:
        """Write one answer's lines, and the ledger's line."""
        outputs = self.outputs
        self.tally.add(answer)
        for line in self.lines(answer):
            outputs.write(OUT, written(line))
        if LEDGER in outputs.paths and (told := self.ledger_line(answer)) is not None:
            outputs.write(LEDGER, written(told))
        self.seal = answer.seal if isinstance(answer, Failed) else answer.list.seal
        outputs.done()

    def kept(self) -> Mapping[str, Any]:
        """Return the counts, for a later run."""
        return {"counts": dict(self.counts)}

    def go_on(self, kept: Mapping[str, Any]) -> None:
        """Take the counts of an earlier run."""
        self.counts.update(kept.get("counts", {}))

    def told(self) -> Mapping[str, Any]:
        """Return the counts, for the summary."""
        rounded = {
            name: round(number, 6) if isinstance(number, float) else number for name, number in self.counts.items()
        }
        return {"counts": dict(sorted(rounded.items()))}

    def lines(self, answer: Ranked | Failed) -> tuple[Mapping[str, Any], ...]:
        """Return the lines of the output, and enter what was counted."""
        if not isinstance(answer, Made):
            return ()
        for name, number in answer.counts.items():
            self.counts[name] = self.counts.get(name, 0) + number
        return answer.lines

    def ledger_line(self, answer: Ranked | Failed) -> Mapping[str, Any] | None:
        """Return the line of the ledger; a failure is told there."""
        line = ledger_record(answer)
        if isinstance(answer, Failed):
            error = {"reason": answer.reason, "message": answer.message}
            return {"qid": answer.qid, "line": answer.line, "error": error, **(line or {})}
        return line
