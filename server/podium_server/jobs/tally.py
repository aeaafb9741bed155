"""What a job has done so far, for its progress, its budget and its summary: over all runs that it took."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from podium_server.accounting.ledger import Ledger
from podium_server.jobs import ledgers
from podium_server.jobs.ledgers import enter, joined, malformed
from podium_server.jobs.ranking import COMPLETE, Answer, Failed

__all__ = ["SHOWN", "Tally", "enter", "joined", "malformed"]

# Failures that are shown one by one; of the others only the number is told.
SHOWN = 20


@dataclass(slots=True)
class Tally:
    """Sums over the answers of a job. Its ledger has an account for every stage of the pipeline."""

    ledger: Ledger = field(default_factory=Ledger)
    lists: int = 0
    """Ranked, completely or not."""
    candidates: int = 0
    completions: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    """Lists with a warning, by its code."""
    dearest: dict[str, int] = field(default_factory=dict)
    """Of each amount that a budget can bound, the most that one list took."""
    unwritable: list[int] = field(default_factory=list)
    """Lines of the input whose ids a TREC run cannot carry; the first ones, and their number."""
    unwritable_count: int = 0
    lost: Ledger = field(default_factory=Ledger)
    """What earlier runs spent on lists that they did not end."""
    runs: int = 1
    elapsed_before_s: float = 0.0
    """What earlier runs took."""
    answered_before: int = 0
    """What earlier runs answered."""
    began: float = field(default_factory=time.monotonic)

    def add(self, answer: Answer) -> None:
        """Enter one answer."""
        if isinstance(answer, Failed):
            self.reasons[answer.reason] += 1
        else:
            self.lists += 1
            self.candidates += len(answer.order)
            self.completions[answer.completion] += 1
            if answer.warnings:
                self.warnings.update({warned.code for warned in answer.warnings})
        if answer.ledger.accounts:
            enter(self.ledger, answer.ledger)
            total = answer.ledger.total()
            for name, amount in (
                ("calls", total.calls),
                ("tokens", total.tokens),
                ("cost_nano_usd", total.cost_nano_usd or 0),
            ):
                if amount > self.dearest.get(name, 0):
                    self.dearest[name] = amount

    def unfit(self, line: int) -> None:
        """Enter a list that a TREC run cannot carry."""
        self.unwritable_count += 1
        if len(self.unwritable) < SHOWN:
            self.unwritable.append(line)

    @property
    def failed(self) -> int:
        """Lists without an order, and lines that are no list."""
        return self.reasons.total()

    @property
    def partial(self) -> int:
        """Lists whose pipeline did not end."""
        return self.lists - self.completions[COMPLETE]

    @property
    def answered(self) -> int:
        """Everything that was read and is done with."""
        return self.lists + self.failed

    @property
    def elapsed_now_s(self) -> float:
        """Since this run began."""
        return time.monotonic() - self.began

    @property
    def elapsed_s(self) -> float:
        """All runs together."""
        return self.elapsed_before_s + self.elapsed_now_s

    @property
    def lists_per_s(self) -> float:
        """In this run."""
        return (self.answered - self.answered_before) / max(self.elapsed_now_s, 1e-6)

    def as_data(self, unfinished: Ledger) -> dict[str, Any]:
        """Return it as a journal keeps it.

        Args:
            unfinished: what this run has spent so far on lists without an answer; the next run knows it as lost.

        """
        return {
            "ledger": ledgers.as_data(self.ledger),
            "lost": ledgers.as_data(joined((self.lost, unfinished))),
            "lists": self.lists,
            "candidates": self.candidates,
            "completions": dict(self.completions),
            "reasons": dict(self.reasons),
            "warnings": dict(self.warnings),
            "dearest": dict(self.dearest),
            "unwritable": list(self.unwritable),
            "unwritable_count": self.unwritable_count,
            "runs": self.runs,
            "elapsed_s": self.elapsed_s,
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Tally:
        """Return the tally to go on with; a new one where nothing was kept."""
        if not data:
            return cls()
        tally = cls(
            ledger=ledgers.from_data(data["ledger"]),
            lists=data["lists"],
            candidates=data["candidates"],
            completions=Counter(data["completions"]),
            reasons=Counter(data["reasons"]),
            warnings=Counter(data["warnings"]),
            dearest=dict(data["dearest"]),
            unwritable=list(data["unwritable"]),
            unwritable_count=data["unwritable_count"],
            lost=ledgers.from_data(data["lost"]),
            runs=data["runs"] + 1,
            elapsed_before_s=data["elapsed_s"],
        )
        tally.answered_before = tally.answered
        return tally
