"""A request and its outcome, as everything inside the server knows them. The wire is translated elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from podium_server.accounting.ledger import Ledger
from podium_server.accounting.usage import Usage
from podium_server.judges.case import Candidate, Truncation
from podium_server.judges.judge import Ruling, ScoreKind
from podium_strategies.plan import Question


class OnExhausted(Enum):
    """What is wanted when a budget ends before the pipeline does."""

    PARTIAL = "partial"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds on one request. None is unbounded.

    Args:
        soft_deadline_s: from the moment the request was accepted; the best order known then is the answer.
        max_cost_nano_usd: of all calls. A model whose price is unknown cannot be held to it, and is refused.
        max_calls: to backends, retries included.
        max_tokens: input and output together.
        on_exhausted: a partial answer, or an error.

    """

    soft_deadline_s: float | None = None
    max_cost_nano_usd: int | None = None
    max_calls: int | None = None
    max_tokens: int | None = None
    on_exhausted: OnExhausted = OnExhausted.PARTIAL

    @property
    def counts(self) -> bool:
        """Whether anything but time is bounded."""
        return not (self.max_cost_nano_usd is None and self.max_calls is None and self.max_tokens is None)


class Explain(Enum):
    """How much an outcome tells of the way to it."""

    NONE = "none"
    ROUNDS = "rounds"
    QUESTIONS = "questions"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request over the wire.

    Args:
        request_id: of the call; with `/` and the item's id in a batch.
        metadata: what came beside the message, by lower-case key.

    """

    request_id: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RankRequest:
    """A query and its candidates, in first-stage order, validated (see `validate`)."""

    query: str
    candidates: tuple[Candidate, ...]
    pipeline: str = ""
    inline: tuple[Mapping[str, Any], ...] | None = None
    """Stages as a configuration file writes them."""
    instruction: str = ""
    budget: Budget = field(default_factory=Budget)
    truncation: Truncation = field(default_factory=Truncation)
    seed: int = 0
    explain: Explain = Explain.NONE
    collection: str = ""
    caller: Caller | None = None
    """Of a live request. None for those of jobs, comparisons and evaluations, which take part in no experiment."""


class Completion(Enum):
    """Whether the pipeline ended, and if not, why."""

    COMPLETE = "complete"
    PARTIAL_DEADLINE = "partial_deadline"
    PARTIAL_BUDGET = "partial_budget"
    PARTIAL_BACKEND = "partial_backend"


class Provenance(Enum):
    """How a candidate came to its place."""

    SCORED = "scored"
    """A judge looked at it, and every reply about it could be read as it was."""
    REPAIRED = "repaired"
    """A judge looked at it, and a reply about it had to be mended."""
    CARRIED_OVER = "carried_over"
    """No judge looked at it: it stands where the stage before put it."""


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that the caller should know and that is no error.

    Args:
        code: stable, upper case, such as `EQUAL_TEXTS`.
        message: for a person.
        places: of the candidates that it is about, in the request; may be empty.

    """

    code: str
    message: str
    places: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TracedQuestion:
    """One question of a trace, with items as places in the request; `ruling` is None where nobody answered."""

    question: Question[Any]
    model: str
    ruling: Ruling | None


@dataclass(slots=True)
class TracedRound:
    """Questions asked side by side.

    Args:
        stage: whose questions they are.
        round: counted from 1 in each stage.
        so_far: the order that stood before them.
        questions: all of them where the request wants them told, else none.
        question_count: all of them.
        elapsed_s: from the arrival of the request to the last answer.

    """

    stage: str
    round: int
    so_far: tuple[int, ...]
    question_count: int
    questions: list[TracedQuestion] = field(default_factory=list)
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An order on the way that could be used at once, just before a round is asked."""

    order: tuple[int, ...]
    stage: str
    round: int
    usage: Usage
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to one request.

    Args:
        order: all candidates, best first, as places in the request.
        scores: by place in the request; None where a candidate has none.
        score_kind: of all scores.
        provenance: by place in the request.
        completion: whether the pipeline ended.
        cause: why it did not, as a sentence; empty where it did.
        ledger: what it cost.
        warnings: what the caller should know.
        trace: each round asked, where the request wanted it.
        pipeline: whose order it is; empty for an inline one.
        cause_reason: the reason of the error that was the cause (`BACKEND_DOWN`, …); empty where there was none.

    """

    order: tuple[int, ...]
    scores: Sequence[float | None]
    score_kind: ScoreKind
    provenance: Sequence[Provenance]
    completion: Completion
    cause: str
    ledger: Ledger
    warnings: tuple[Warned, ...] = ()
    trace: tuple[TracedRound, ...] = ()
    pipeline: str = ""
    cause_reason: str = ""
