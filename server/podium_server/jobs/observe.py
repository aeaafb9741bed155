"""What a pipeline's judges say of labelled lists, all of it, so that thresholds can be set on it afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from podium_server import validate
from podium_server.accounting.ledger import Ledger
from podium_server.errors import InvalidRequest, PodiumError
from podium_server.jobs.calibrate import Graded, Labels, Reranked, exited
from podium_server.jobs.labelled import LabelledList
from podium_server.judges.case import Candidate
from podium_server.limits import Limits
from podium_server.ranking.pipeline import JudgeMaker, Pipeline
from podium_server.ranking.request import Completion, Outcome, RankRequest
from podium_server.ranking.reranker import Reranker
from podium_strategies.cascade import Stage
from podium_strategies.early_exit import FAST, STRONG, EarlyExit
from podium_strategies.plan import Grade, Permutation, Plan, Question, Ranking, Strategy, ask_all
from podium_strategies.pool import Pool
from podium_strategies.selective import Selective, margin


@dataclass(frozen=True, slots=True)
class Target:
    """A stage whose options are to be set.

    Args:
        pipeline: that it is part of.
        place: among its stages.

    """

    pipeline: Pipeline
    place: int

    @property
    def stage(self) -> Stage:
        """The stage."""
        return self.pipeline.stages[self.place]

    @property
    def selective(self) -> Selective | None:
        """Its strategy, where that skips."""
        strategy = self.stage.strategy
        return strategy if isinstance(strategy, Selective) else None

    @property
    def early_exit(self) -> EarlyExit | None:
        """Its strategy, or what that wraps, where it exits early."""
        strategy = self.selective.base if self.selective is not None else self.stage.strategy
        return strategy if isinstance(strategy, EarlyExit) else None


def targets(pipeline: Pipeline) -> list[Target]:
    """Return the stages of a pipeline that have a threshold to set.

    Raises:
        InvalidRequest: there are none.

    """
    found = [Target(pipeline, place) for place in range(len(pipeline.stages))]
    found = [target for target in found if target.selective is not None or target.early_exit is not None]
    if not found:
        used = ", ".join(sorted({section.strategy for section in pipeline.section.stages}))
        raise InvalidRequest(
            "pipeline", f"{pipeline.name!r} has no stage of early-exit or selective to calibrate (it has: {used})"
        )
    return found


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of one list, as far as the stage has use for it."""

    graded: Graded | None = None
    reranked: Reranked | None = None
    ledger: Ledger = field(default_factory=Ledger)


@dataclass(frozen=True, slots=True)
class Observer:
    """Runs what stands before a stage, and then its judges without any threshold.

    Args:
        target: the stage.
        judge_of: gives judges.
        limits: of a list.

    """

    target: Target
    judge_of: JudgeMaker
    limits: Limits

    async def look(self, given: LabelledList) -> Seen:
        """Return what is seen of one list.

        Raises:
            PodiumError: the list is out of bounds, or a judge cannot answer.

        """
        query = validate.query(given.list.query, self.limits)
        candidates, _ = validate.documents(given.list.documents, self.limits)
        request = RankRequest(query, candidates)
        labels = given.labels
        if self.target.place:
            request, labels = await self._arrived(request, labels)
        graded = reranked = None
        ledger = Ledger()
        order: Permutation | None = None
        if self.target.early_exit is not None:
            both = _BothGrades()
            ledger = (await self._run(request, both)).ledger
            graded = Graded(labels, _by_place(both.fast), _by_place(both.strong))
            # Every grade is known by now: what the strategy would make of them need not be asked, and paid, again.
            order, _ = exited(self.target.early_exit, graded)
        selective = self.target.selective
        if selective is not None:
            if order is None:
                outcome = await self._run(request, selective.base)
                order, ledger = outcome.order, outcome.ledger
            scores = [candidate.prior_score for candidate in request.candidates]
            known = [score for score in scores if score is not None]
            reranked = Reranked(
                labels.qid,
                margin(known if len(known) == len(scores) else None, selective.k),
                labels.ndcg(range(len(scores))),
                labels.ndcg(order),
            )
        return Seen(graded, reranked, ledger)

    async def _arrived(self, request: RankRequest, labels: Labels) -> tuple[RankRequest, Labels]:
        """Return the list as it arrives at the stage: in the order of the stages before, with their scores."""
        pipeline = self.target.pipeline
        before = pipeline.stages[: self.target.place]
        roles = {stage.role for stage in before}
        voices = tuple(voice for voice in pipeline.voices if voice.role.partition(".")[0] in roles)
        section = pipeline.section.model_copy(update={"stages": pipeline.section.stages[: self.target.place]})
        outcome = await self._ranked(request, replace(pipeline, section=section, stages=before, voices=voices))
        kept = outcome.order
        for stage in before:
            kept = kept[: stage.keep]
        candidates = tuple(
            Candidate(one.id, one.text, outcome.scores[place], one.chunk)
            for place in kept
            for one in (request.candidates[place],)
        )
        given = tuple(labels.given[place] for place in kept)
        return replace(request, candidates=candidates), replace(labels, given=given)

    async def _run(self, request: RankRequest, strategy: Strategy) -> Outcome:
        """Run another strategy in the seat of the stage: its judges, its accounts."""
        role = self.target.stage.role
        pipeline = self.target.pipeline
        voices = tuple(
            replace(voice, strategy=strategy) for voice in pipeline.voices if voice.role.partition(".")[0] == role
        )
        section = pipeline.section.model_copy(update={"stages": (pipeline.section.stages[self.target.place],)})
        stages = (Stage(strategy, role),)
        return await self._ranked(request, replace(pipeline, section=section, stages=stages, voices=voices))

    async def _ranked(self, request: RankRequest, pipeline: Pipeline) -> Outcome:
        outcome = await Reranker({"": pipeline}, "", self.judge_of, self.limits).rank(request)
        if outcome.completion is not Completion.COMPLETE:
            raise PodiumError(f"a list was not ranked to the end: {outcome.cause}")
        return outcome


@dataclass(frozen=True)
class _BothGrades(Strategy):
    """Asks both judges about everybody, and keeps what they say. For one list."""

    fast: dict[int, float] = field(default_factory=dict)
    strong: dict[int, float] = field(default_factory=dict)

    kinds = (Grade,)

    @property
    def asks(self) -> frozenset[type[Question[Any]]]:
        return frozenset({Grade})

    def plan(self, pool: Pool) -> Plan[Ranking]:
        order = tuple(range(pool.n))
        questions = [Grade(item, role) for role in (FAST, STRONG) for item in order]
        grades = yield from ask_all(questions, order)
        self.fast.update(zip(order, grades[: pool.n], strict=True))
        self.strong.update(zip(order, grades[pool.n :], strict=True))
        return Ranking(order)


def _by_place(grades: Mapping[int, float]) -> tuple[float, ...]:
    return tuple(grades[place] for place in range(len(grades)))
