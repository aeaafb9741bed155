"""The budget of a whole job: when it is gone, no list is begun, and those at work are finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from podium_server.accounting.usage import Usage
from podium_server.errors import FailedPrecondition

NANO_PER_USD = 1_000_000_000


class BudgetSpent(Exception):
    """The job's budget does not hold one more list. What was done is written."""


@dataclass(frozen=True, slots=True)
class JobBudget:
    """Bounds on all lists of a job together, over all runs that it takes. None is unbounded.

    Args:
        max_cost_nano_usd: of all calls. A model whose price is unknown cannot be held to it.
        max_calls: to backends, retries included.
        max_tokens: input and output together.
        max_hours: by the clock, while the job runs.

    """

    max_cost_nano_usd: int | None = None
    max_calls: int | None = None
    max_tokens: int | None = None
    max_hours: float | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name} is {value}: at least 0, or None for no bound")

    @property
    def bounded(self) -> bool:
        """Whether anything is bounded."""
        return any(getattr(self, name) is not None for name in self.__slots__)

    @property
    def counts(self) -> bool:
        """Whether anything but time is bounded."""
        return not (self.max_cost_nano_usd is None and self.max_calls is None and self.max_tokens is None)


@dataclass(frozen=True, slots=True)
class Purse:
    """Says whether one more list may begin.

    Each list at work is reckoned at the dearest list so far, so that the budget is passed only by as much as lists are
    dearer than any before. Until one is known, lists go one by one.

    Args:
        budget: of the job.
        spent: returns what was used so far, by lists that are done and by those that were lost.
        dearest: of each amount, the most that one list took (`calls`, `tokens`, `cost_nano_usd`).
        elapsed_s: returns how long the job has run.

    """

    budget: JobBudget
    spent: Callable[[], Usage]
    dearest: Mapping[str, int]
    elapsed_s: Callable[[], float]

    def refusal(self, at_work: int, known: bool) -> str:
        """Return why no list may begin now, as a sentence; empty where one may.

        Args:
            at_work: lists that have begun and have no answer.
            known: whether a list has used anything, so that there is a dearest.

        Raises:
            FailedPrecondition: money is bounded, and something was used that has no price.

        """
        budget = self.budget
        if budget.max_hours is not None and self.elapsed_s() >= budget.max_hours * 3600:
            return f"the job has run for {self.elapsed_s() / 3600:.2f} h, and its budget is {budget.max_hours:g} h"
        if not budget.counts:
            return ""
        spent = self.spent()
        if budget.max_cost_nano_usd is not None and spent.cost_nano_usd is None:
            raise FailedPrecondition(
                "the job's money is bounded, and no price is configured for all that its models use; configure "
                "models.<name>.prices, or bound calls or tokens"
            )
        for name, limit, amount in (
            ("calls", budget.max_calls, spent.calls),
            ("tokens", budget.max_tokens, spent.tokens),
            ("cost_nano_usd", budget.max_cost_nano_usd, spent.cost_nano_usd or 0),
        ):
            if limit is None:
                continue
            dearest = self.dearest.get(name, 0)
            if amount >= limit or amount + (at_work + 1) * dearest > limit:
                return _sentence(name, amount, dearest, limit)
        if not known and at_work:
            return "it is not known yet what a list takes"
        return ""


def _sentence(name: str, spent: int, dearest: int, limit: int) -> str:
    if name == "cost_nano_usd":
        used, most, bound = (f"${amount / NANO_PER_USD:.6g}" for amount in (spent, dearest, limit))
        what = "money"
    else:
        used, most, bound = (f"{amount:,}" for amount in (spent, dearest, limit))
        what = name
    return f"of {bound} ({what}), {used} are spent, and one more list may take {most}"
