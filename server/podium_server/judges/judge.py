"""The contract between whoever drives a plan and whoever answers its questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from podium_server.accounting.prices import Prices
from podium_server.accounting.usage import Usage
from podium_server.judges.case import Case
from podium_strategies.plan import Question


class ScoreKind(Enum):
    """What the number of a grade means. A sigmoid is applied once, by whoever makes a probability of a logit."""

    NONE = "none"
    COSINE = "cosine"
    MAXSIM = "maxsim"
    LOGIT = "logit"
    PROBABILITY = "probability"
    LOG_LIKELIHOOD = "log_likelihood"
    GRADE = "grade"
    FUSED = "fused"
    POINTS = "points"
    PRIOR = "prior"
    MARGINAL = "marginal"


@dataclass(frozen=True, slots=True)
class Ruling:
    """One answer, and what it cost.

    Args:
        answer: of the question's answer type.
        usage: of all calls made for it, failed attempts included; already priced.
        repaired: the reply was no plain answer and something in it was mended (`usage.repairs` says what).
        note: what the model said, for a trace; may be cut.

    """

    answer: Any
    usage: Usage = field(default_factory=Usage)
    repaired: bool = False
    note: str = ""


class Sink(Protocol):
    """Where a judge delivers, at once and in any order."""

    def ruled(self, index: int, ruling: Ruling, *, elapsed_s: float) -> None:
        """Deliver the ruling on question `index`; `elapsed_s` is from asking to answer, queues included."""

    def spent(self, usage: Usage) -> None:
        """Report priced usage that led to no ruling: calls that failed in the end, or were cancelled under way."""


@dataclass(frozen=True, slots=True)
class JudgeFacts:
    """Who a judge is, for the ledger, the catalogue and the admission of strategies.

    Args:
        model: the configured model's name.
        revision: of its weights, or what the backend says it serves.
        prompt_id: with its version; empty where there is no prompt.
        answers: the kinds of question that it can answer.
        score_kind: of its grades.
        prices: of its calls.

    """

    model: str
    revision: str
    answers: frozenset[type[Question[Any]]]
    score_kind: ScoreKind = ScoreKind.NONE
    prompt_id: str = ""
    prices: Prices = field(default_factory=Prices)


class Judge(Protocol):
    """Answers questions about one case.

    Implementations hold no state of a request: usage is returned, not remembered.
    """

    @property
    def facts(self) -> JudgeFacts:
        """Who this judge is."""

    async def rule(self, case: Case, questions: Sequence[Question[Any]], sink: Sink) -> None:
        """Answer every question, delivering each to `sink` as it is known.

        Cancellation stops the work: queue entries are taken back, streams closed, and what was spent is reported.

        Raises:
            PodiumError: nothing more will be delivered (`BackendDown`, `BackendRefused`, `UnreadableReply`, …).

        """

    def estimate(self, case: Case, questions: Sequence[Question[Any]]) -> Usage:
        """Return the priced usage that answering would take, at the usual length of replies. Calls no model."""
