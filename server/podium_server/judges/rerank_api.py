"""The judge of grades that asks somebody else's rerank endpoint: Cohere, Jina, Voyage, TEI, infinity, vLLM.

A question is a document. In the ledger a call is one request to the endpoint, of as many documents as it takes; the
bill of a request goes with the first ruling that it led to. What was cut is counted where we cut it, or know that the
endpoint does; what an endpoint cuts beyond that, none of them says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from podium_server.accounting.prices import Prices
from podium_server.accounting.usage import Usage
from podium_server.backends.attempts import Bill
from podium_server.backends.rerank_api.api import RerankApi, Sheet
from podium_server.errors import FailedPrecondition
from podium_server.judges.case import Case, Side
from podium_server.judges.cross_encoder import sigmoid
from podium_server.judges.judge import JudgeFacts, Ruling, ScoreKind, Sink
from podium_strategies.plan import Grade, Question

Score: TypeAlias = Literal["logit", "probability"]

# More documents than that are counted in a thread where the model's own tokenizer counts: it takes a while.
_COUNTED_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class RerankApiJudge:
    """Grades documents by a rerank endpoint.

    Args:
        api: the model and its endpoints.
        score: what the grades are to be; None passes on what the endpoint gives.
        prices: of the model.

    Raises:
        FailedPrecondition: `score` is what the endpoint does not give.

    """

    api: RerankApi
    score: Score | None = None
    prices: Prices = field(default_factory=Prices)

    def __post_init__(self) -> None:
        gives = self.api.scale
        if self.score == "logit" and gives != "logit" and not self.api.spoken.raw:
            raise FailedPrecondition(
                f"score is 'logit', and an endpoint that speaks {self.api.spoken.name!r} ({self.api.name!r}) gives no "
                "scores before their sigmoid; leave score out"
            )
        if self.score == "probability" and gives == "cosine":
            raise FailedPrecondition(
                f"score is 'probability', and the scores of {self.api.name!r} are cosines, of which nobody knows the "
                "probability; leave score out"
            )

    @property
    def facts(self) -> JudgeFacts:
        """Who this judge is."""
        return JudgeFacts(
            model=self.api.name,
            revision=self.api.revision,
            answers=frozenset({Grade}),
            score_kind=ScoreKind(self.score or self.api.scale),
            prices=self.prices,
        )

    async def rule(self, case: Case, questions: Sequence[Question[Any]], sink: Sink) -> None:
        """Ask for all documents, in as many requests as it takes, and deliver as these come back."""
        began_s = time.monotonic()
        asked: dict[int, list[int]] = {}
        for index, question in enumerate(questions):
            asked.setdefault(question.items[0], []).append(index)
        items = list(asked)
        sheet = await self._sheet(case, items)

        async def work(part: slice) -> None:
            bill = Bill()
            delivered = False
            try:
                scores = await self.api.score(
                    sheet,
                    part,
                    bill,
                    raw=self._raw,
                    instruction=case.instruction,
                    deadline_at=case.deadline_at,
                )
                delivered = True
            finally:
                # Failed, or the caller has gone: what was spent by then is still owed.
                if not delivered and bill.usage != _NOTHING:
                    sink.spent(self.prices.charge(bill.usage))
            usage = bill.usage + Usage(pairs=len(scores), truncated_documents=sum(sheet.cut[part]))
            owed = self.prices.charge(usage)
            for item, score in zip(items[part], scores, strict=True):
                for index in asked[item]:
                    sink.ruled(index, Ruling(self._grade(score), owed), elapsed_s=time.monotonic() - began_s)
                    owed = _NOTHING

        parts = list(self.api.parts(sheet))
        if len(parts) == 1:
            await work(parts[0])
            return
        try:
            async with asyncio.TaskGroup() as group:
                for part in parts:
                    group.create_task(work(part))
        except BaseExceptionGroup as failures:
            # The first failure ended the others; it is the one to tell.
            raise _first(failures) from None

    def estimate(self, case: Case, questions: Sequence[Question[Any]]) -> Usage:
        """Return the priced usage of asking for each document once. Calls no endpoint."""
        items = list({question.items[0]: None for question in questions})
        if not items:
            return _NOTHING
        sheet = self._sheet_now(case, items)
        total = _NOTHING
        for part in self.api.parts(sheet):
            amounts = self.api.expected(sheet, part)
            total = total + Usage(calls=1, pairs=part.stop - part.start) + amounts
        return self.prices.charge(total)

    # --- internals ------------------------------------------------------------------------------------------------

    @property
    def _raw(self) -> bool:
        return self.score == "logit" and self.api.scale != "logit"

    def _grade(self, score: float) -> float:
        return sigmoid(score) if self.score == "probability" and self.api.scale == "logit" else score

    async def _sheet(self, case: Case, items: Sequence[int]) -> Sheet:
        if self.api.counts_exactly and len(items) > _COUNTED_AT_ONCE:
            return await asyncio.to_thread(self._sheet_now, case, items)
        return self._sheet_now(case, items)

    def _sheet_now(self, case: Case, items: Sequence[int]) -> Sheet:
        return self.api.sheet(
            case.query,
            [case.candidates[item].text for item in items],
            max_tokens=case.truncation.max_tokens_per_document,
            from_start=case.truncation.side is Side.START,
        )


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    failure: BaseException = failures
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure


_NOTHING = Usage()
