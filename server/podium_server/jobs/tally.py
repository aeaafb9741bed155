"""What a job has done so far, for its progress and its summary."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from podium_server.accounting.ledger import Account, Ledger
from podium_server.accounting.usage import Usage
from podium_server.jobs.ranking import Answer, Failed
from podium_strategies.prompts.prompt import Repair

COMPLETE = "complete"

_MALFORMED = frozenset(kind.value for kind in Repair) - {Repair.OK.value}

# Failures that are shown one by one; of the others only the number is told.
SHOWN = 20


def malformed(usage: Usage) -> int:
    """Return how many replies lacked something that was asked for, or could not be read at all."""
    return sum(number for kind, number in usage.repairs.items() if kind in _MALFORMED)


def enter(whole: Ledger, part: Ledger) -> None:
    """Add one ledger to another, stage by stage. Depths do not add up: the deepest stands."""
    whole.rounds = max(whole.rounds, part.rounds)
    whole.wall_s += part.wall_s
    for account in part:
        sum_ = whole.open(Account(account.stage, account.strategy, account.model, account.revision, account.prompt_id))
        sum_.add(account.usage)
        sum_.questions += account.questions
        sum_.rounds = max(sum_.rounds, account.rounds)
        sum_.candidates_in += account.candidates_in
        sum_.candidates_out += account.candidates_out


def joined(parts: Iterable[Ledger]) -> Ledger:
    """Return the sum of many ledgers."""
    whole = Ledger()
    for part in parts:
        enter(whole, part)
    return whole


@dataclass(slots=True)
class Tally:
    """Sums over the answers of a job. Its ledger has an account for every stage of the pipeline."""

    ledger: Ledger = field(default_factory=Ledger)
    lists: int = 0
    """Ranked, completely or not."""
    candidates: int = 0
    completions: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    failures: list[Failed] = field(default_factory=list)
    """The first ones."""
    began: float = field(default_factory=time.monotonic)

    def add(self, answer: Answer) -> None:
        """Enter one answer."""
        if isinstance(answer, Failed):
            self.reasons[answer.reason] += 1
            if len(self.failures) < SHOWN:
                self.failures.append(answer)
        else:
            self.lists += 1
            self.candidates += len(answer.order)
            self.completions[answer.completion] += 1
        enter(self.ledger, answer.ledger)

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
    def elapsed_s(self) -> float:
        """Since the job began."""
        return time.monotonic() - self.began
