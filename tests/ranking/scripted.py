"""Judges whose behaviour a test writes down: a truth, delays, failures, prices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from podium_server.accounting.prices import Prices
from podium_server.accounting.usage import Usage
from podium_server.config import StageSection
from podium_server.judges.case import Candidate, Case
from podium_server.judges.judge import JudgeFacts, Ruling, ScoreKind, Sink
from podium_server.limits import Limits
from podium_server.ranking.pipeline import Pipeline, build
from podium_server.ranking.request import RankRequest
from podium_server.ranking.reranker import Reranker
from podium_strategies.oracle import Oracle
from podium_strategies.plan import Grade, Liken, Order, Pick, Prefer, Question

ALL_KINDS: frozenset[type[Question[Any]]] = frozenset({Grade, Prefer, Pick, Order, Liken})


@dataclass
class ScriptedJudge:
    """Answers truthfully, one call a question, after `delay_s(question number)`; may fail at some of them."""

    oracle: Oracle
    delay_s: Callable[[int], float] = lambda number: 0.0
    fail_at: Mapping[int, Exception] = field(default_factory=dict)
    prices: Prices = field(default_factory=Prices)
    answers: frozenset[type[Question[Any]]] = ALL_KINDS
    repaired_items: frozenset[int] = frozenset()
    model: str = "scripted"
    asked: list[Question[Any]] = field(default_factory=list)
    cancelled: int = 0

    @property
    def facts(self) -> JudgeFacts:
        return JudgeFacts(self.model, "r1", self.answers, ScoreKind.LOGIT, "scripted/1", self.prices)

    async def rule(self, case: Case, questions: Sequence[Question[Any]], sink: Sink) -> None:
        async with asyncio.TaskGroup() as group:
            for index, question in enumerate(questions):
                group.create_task(self._one(case, index, question, sink))

    async def _one(self, case: Case, index: int, question: Question[Any], sink: Sink) -> None:
        number = len(self.asked)
        self.asked.append(question)
        usage = self.prices.charge(Usage(calls=1, prompt_tokens=10 * len(question.items), output_tokens=5))
        delay_s = self.delay_s(number)
        try:
            if delay_s:
                await asyncio.sleep(delay_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            sink.spent(usage)
            raise
        if number in self.fail_at:
            sink.spent(usage)
            raise self.fail_at[number]
        repaired = bool(self.repaired_items & set(question.items))
        sink.ruled(index, Ruling(self.oracle.answer(question), usage, repaired=repaired), elapsed_s=delay_s)

    def estimate(self, case: Case, questions: Sequence[Question[Any]]) -> Usage:
        shown = sum(len(question.items) for question in questions)
        return self.prices.charge(
            Usage(calls=len(questions), prompt_tokens=10 * shown, output_tokens=5 * len(questions))
        )


def pipeline(judges: Mapping[str, Any], *stages: Mapping[str, Any], name: str = "p") -> Pipeline:
    """Build a pipeline whose models are these judges."""
    from podium_server.config import PipelineSection

    section = PipelineSection(stages=tuple(StageSection(**stage) for stage in stages))
    return build(name, section, lambda section, model, asks: judges[model], where=f"pipelines.{name}")


def reranker(*pipelines: Pipeline, limits: Limits | None = None, judges: Mapping[str, Any] | None = None) -> Reranker:
    """Return a reranker over these pipelines; the first is the default."""
    known = dict(judges or {})
    return Reranker(
        {one.name: one for one in pipelines},
        pipelines[0].name,
        lambda section, model, asks: known[model],
        limits or Limits(),
    )


def request(n: int, **more: Any) -> RankRequest:
    """Return a request of n candidates named d0 …"""
    return RankRequest("q", tuple(Candidate(f"d{i}", f"text {i}") for i in range(n)), **more)
