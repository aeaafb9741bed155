"""The heart of the server: a request in, an outcome out. Transports and jobs call this, and nothing below it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from podium_server.accounting.ledger import Ledger
from podium_server.config import PipelineSection, parse_stage
from podium_server.errors import ConfigInvalid, InvalidRequest, NotFound, Overloaded, PodiumError, Unavailable
from podium_server.judges.case import Case
from podium_server.limits import Limits
from podium_server.ranking.driver import Drive
from podium_server.ranking.pipeline import Estimate, JudgeMaker, Pipeline, build, estimate
from podium_server.ranking.request import Completion, Outcome, RankRequest, Snapshot, Warned
from podium_strategies.drive import Execution
from podium_strategies.forecast import forecast
from podium_strategies.plan import Permutation, PlanTooLarge
from podium_strategies.pool import Pool
from podium_strategies.prompts.prompt import MALFORMED

# A plan's questions are counted beforehand only where there can be too many of them: n squared is the most that a
# strategy of ours asks of n candidates.
_UNCOUNTED_CANDIDATES = 200

_MALFORMED = frozenset(repair.value for repair in MALFORMED)


@dataclass(slots=True)
class Reranker:
    """Ranks candidates through named or inline pipelines.

    Args:
        pipelines: by name.
        default_pipeline: used where a request names none.
        judge_of: gives the judges of inline pipelines.
        limits: of requests.

    """

    pipelines: Mapping[str, Pipeline]
    default_pipeline: str
    judge_of: JudgeMaker
    limits: Limits
    draining: bool = field(init=False, default=False)
    running: int = field(init=False, default=0)
    refused: int = field(init=False, default=0)
    _idle: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def pipeline(self, request: RankRequest) -> Pipeline:
        """Return the pipeline that a request asks for.

        Raises:
            NotFound: with the names that there are.
            InvalidRequest, FailedPrecondition: an inline pipeline cannot be built.

        """
        if request.inline is not None:
            return self._inline(request.inline)
        name = request.pipeline or self.default_pipeline
        try:
            return self.pipelines[name]
        except KeyError:
            raise NotFound("pipeline", name, tuple(self.pipelines)) from None

    def _inline(self, stages: tuple[Mapping[str, object], ...]) -> Pipeline:
        try:
            sections = tuple(parse_stage(stage, where=f"inline.stages[{i}]") for i, stage in enumerate(stages))
        except ConfigInvalid as error:
            raise InvalidRequest("inline", error.message) from error
        return build("", PipelineSection(stages=sections), self.judge_of, where="inline")

    async def rerank(
        self,
        request: RankRequest,
        *,
        deadline_at: float | None = None,
        ledger_before: Ledger | None = None,
        warnings: tuple[Warned, ...] = (),
        on_snapshot: Callable[[Snapshot], None] | None = None,
    ) -> Outcome:
        """Rank the candidates of one request.

        Args:
            request: valid (see `validate`).
            deadline_at: `time.monotonic()` seconds after which nothing can be delivered.
            ledger_before: of what was done for the request before (recall), to go on with.
            warnings: of whoever read the request, to go on with.
            on_snapshot: is shown every order on the way.

        Raises:
            PodiumError: with `spent`, the ledger of what was used until then.

        """
        with self._admitted():
            return await self._rank(request, deadline_at, ledger_before, warnings, on_snapshot)

    def _admitted(self) -> _Admission:
        if self.draining:
            raise Unavailable("this server is stopping; another one will answer")
        if self.running >= self.limits.concurrent_requests:
            self.refused += 1
            raise Overloaded(
                f"{self.running} requests are at work, and limits.concurrent_requests is "
                f"{self.limits.concurrent_requests}; try again later",
                retry_after_s=0.5,
            )
        return _Admission(self)

    async def _rank(
        self,
        request: RankRequest,
        deadline_at: float | None,
        ledger_before: Ledger | None,
        warnings: tuple[Warned, ...],
        on_snapshot: Callable[[Snapshot], None] | None,
    ) -> Outcome:
        began = time.monotonic()
        pipeline = self.pipeline(request)
        n = len(request.candidates)
        seats, ledger = pipeline.seats(n)
        if ledger_before is not None:
            ledger.accounts = {**ledger_before.accounts, **ledger.accounts}
            ledger.critical_path_s = ledger_before.critical_path_s
            began -= ledger_before.wall_s
        pool = _pool(request)
        execution = self._execution(pipeline, pool)
        drive = Drive(
            execution=execution,
            panel=seats,
            case=_case(request, _earliest(began, request, deadline_at, reserve_s=0.0)),
            ledger=ledger,
            budget=request.budget,
            deadline_at=_earliest(began, request, deadline_at, reserve_s=self.limits.deadline_reserve_ms / 1000),
            on_snapshot=on_snapshot,
            explain=request.explain,
        )
        try:
            order = await drive.run()
        except PodiumError as error:
            error.spent = ledger
            raise
        finally:
            ledger.wall_s = time.monotonic() - began
        return _outcome(pipeline, execution, drive, order, ledger, warnings)

    def _execution(self, pipeline: Pipeline, pool: Pool) -> Execution:
        """Return the plan under way, refused beforehand where it would ask too much."""
        strategy = pipeline.strategy
        try:
            if pool.n > _UNCOUNTED_CANDIDATES:
                quote = forecast(strategy, pool, seeds=(1,))
                questions = max(quote.questions, quote.questions_max or 0)
                if questions > self.limits.questions:
                    raise PlanTooLarge(
                        f"up to {questions:,.0f} questions for {pool.n:,} candidates, and limits.questions is "
                        f"{self.limits.questions:,}"
                    )
            return Execution(strategy.plan(pool), pool.n)
        except PlanTooLarge as error:
            raise InvalidRequest("documents", f"too many for this pipeline: {error}") from error

    def estimate(self, request: RankRequest) -> tuple[Pipeline, Estimate]:
        """Return what a request would cost. Calls no model.

        Raises:
            NotFound, InvalidRequest, FailedPrecondition: as `rerank`.

        """
        pipeline = self.pipeline(request)
        try:
            return pipeline, estimate(pipeline, _case(request, None))
        except PlanTooLarge as error:
            raise InvalidRequest("documents", f"too many for this pipeline: {error}") from error

    async def drained(self, timeout_s: float) -> bool:
        """Refuse new requests, and wait until the running ones have ended; return whether they all have."""
        self.draining = True
        try:
            async with asyncio.timeout(timeout_s):
                while self.running:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            return False
        return True


@dataclass(slots=True)
class _Admission:
    """A place among the running requests, given back on every way out."""

    reranker: Reranker

    def __enter__(self) -> None:
        self.reranker.running += 1

    def __exit__(self, *_: object) -> None:
        self.reranker.running -= 1
        if not self.reranker.running:
            self.reranker._idle.set()


def _pool(request: RankRequest) -> Pool:
    known = tuple(score for candidate in request.candidates if (score := candidate.prior_score) is not None)
    return Pool(
        n=len(request.candidates),
        scores=known if known and len(known) == len(request.candidates) else None,
        seed=request.seed,
    )


def _case(request: RankRequest, deadline_at: float | None) -> Case:
    return Case(
        query=request.query,
        candidates=request.candidates,
        instruction=request.instruction,
        truncation=request.truncation,
        deadline_at=deadline_at,
        seed=request.seed,
        collection=request.collection,
    )


def _earliest(began: float, request: RankRequest, deadline_at: float | None, *, reserve_s: float) -> float | None:
    """Return the moment to stop at: the soft deadline, or the call's own less what sending the answer takes."""
    soft_s = request.budget.soft_deadline_s
    moments = [began + soft_s] if soft_s is not None else []
    if deadline_at is not None:
        moments.append(deadline_at - reserve_s)
    return min(moments, default=None)


def _outcome(
    pipeline: Pipeline,
    execution: Execution,
    drive: Drive,
    order: Permutation,
    ledger: Ledger,
    warnings: tuple[Warned, ...],
) -> Outcome:
    result = execution.result
    complete = drive.completion is Completion.COMPLETE and result is not None
    scores = result.scores if complete and result is not None and result.scores is not None else (None,) * execution.n
    return Outcome(
        order=order,
        scores=scores,
        score_kind=pipeline.score_kind,
        provenance=drive.provenance,
        completion=drive.completion,
        cause=drive.cause.message if drive.cause is not None else "",
        ledger=ledger,
        warnings=(*warnings, *_closing_warnings(drive, ledger)),
        trace=tuple(drive.trace),
        pipeline=pipeline.name,
    )


def _closing_warnings(drive: Drive, ledger: Ledger) -> list[Warned]:
    """Return what the ledger shows that the caller should know."""
    total = ledger.total()
    warnings = []
    if drive.cause is not None:
        warnings.append(Warned("PARTIAL", drive.cause.message))
    if total.truncated_documents:
        warnings.append(Warned("TRUNCATED", f"{total.truncated_documents} documents were cut to what the model reads"))
    faults = {kind: count for kind, count in total.repairs.items() if kind in _MALFORMED and count}
    if faults:
        listed = ", ".join(f"{count} {kind}" for kind, count in sorted(faults.items()))
        warnings.append(Warned("REPLIES_REPAIRED", f"replies had to be repaired: {listed}"))
    bounded = total.repairs.get("missing_label", 0)
    if bounded:
        warnings.append(
            Warned("SCORES_BOUNDED", f"{bounded} labels had no reported probability; a bound stands for it")
        )
    if total.cost_nano_usd is None and any(account.usage.cost_nano_usd for account in ledger):
        # Where nothing has a price there is nothing to be misled by: the cost basis says `unknown`.
        unpriced = ", ".join(sorted({account.model for account in ledger if account.usage.cost_nano_usd is None}))
        warnings.append(Warned("PRICE_UNKNOWN", f"the cost is unset, because {unpriced} has no configured price"))
    return warnings
