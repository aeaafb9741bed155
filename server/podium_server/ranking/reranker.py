"""The heart of the server: a request in, an outcome out. Transports and jobs call this, and nothing below it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import lru_cache

from podium_server.accounting.ledger import Account, Ledger
from podium_server.accounting.usage import Usage
from podium_server.config import PipelineSection, parse_stage
from podium_server.errors import ConfigInvalid, InvalidRequest, NotFound, Overloaded, PodiumError, Unavailable
from podium_server.judges.case import Case
from podium_server.limits import Limits
from podium_server.ranking.challenger import Experiments
from podium_server.ranking.driver import Drive, Seat
from podium_server.ranking.guard import Guard, Work
from podium_server.ranking.pipeline import Estimate, JudgeMaker, Pipeline, build, estimate, pool_of
from podium_server.ranking.request import Outcome, RankRequest, Snapshot, Warned
from podium_strategies.drive import Execution
from podium_strategies.forecast import forecast
from podium_strategies.plan import Permutation, PlanTooLarge, Strategy
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
        guards: stand around every request, the outermost first.
        experiments: on live requests; None for none.
        may: raises where the caller may not have its request ranked so; None where everybody may.
        place: waits for a place among the running requests until a moment (`time.monotonic()` seconds) or for as long
            as it likes, and returns what gives the place back. None: there is one, or the request is refused.

    """

    pipelines: Mapping[str, Pipeline]
    default_pipeline: str
    judge_of: JudgeMaker
    limits: Limits
    guards: Sequence[Guard] = ()
    experiments: Experiments | None = None
    may: Callable[[RankRequest], None] | None = None
    place: Callable[[float | None], Awaitable[Callable[[], None]]] | None = None
    draining: bool = field(init=False, default=False)
    running: int = field(init=False, default=0)
    refused: int = field(init=False, default=0)
    spent_on_cancelled: Usage = field(init=False, default_factory=Usage)
    """What requests had used whose callers went away: no answer carries it, and it was paid for."""
    known_nano_usd_on_cancelled: int = field(init=False, default=0)
    """What is known of its cost, which as a whole is unknown for good after one request without a price."""
    _round_s: dict[tuple[str, str], float] = field(init=False, default_factory=dict)
    _idle: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def pipeline(self, request: RankRequest) -> Pipeline:
        """Return the pipeline that a request asks for.

        Raises:
            NotFound: with the names that there are.
            InvalidRequest, FailedPrecondition: an inline pipeline cannot be built.
            PermissionDenied: the caller may not use it.

        """
        if self.may is not None:
            self.may(request)
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
        warnings: tuple[Warned, ...] = (),
        on_snapshot: Callable[[Snapshot], None] | None = None,
        on_ledger: Callable[[Ledger], None] | None = None,
    ) -> Outcome:
        """Rank the candidates of one request, in a place of its own among the running ones; see `rank`.

        Raises:
            Unavailable, Overloaded: there is no place.

        """
        async with self.admitted(deadline_at):
            return await self.rank(
                request, deadline_at=deadline_at, warnings=warnings, on_snapshot=on_snapshot, on_ledger=on_ledger
            )

    def admitted(self, deadline_at: float | None = None) -> _Admission:
        """Take a place among the running requests, for an `async with`.

        Args:
            deadline_at: `time.monotonic()` seconds after which a place is of no use.

        Raises:
            Unavailable: the server is draining.
            Overloaded: all places are taken.

        """
        return _Admission(self, deadline_at)

    async def rank(
        self,
        request: RankRequest,
        *,
        deadline_at: float | None = None,
        ledger_before: Ledger | None = None,
        warnings: tuple[Warned, ...] = (),
        on_snapshot: Callable[[Snapshot], None] | None = None,
        on_ledger: Callable[[Ledger], None] | None = None,
    ) -> Outcome:
        """Rank the candidates of one request that was admitted.

        Args:
            request: valid (see `validate`).
            deadline_at: `time.monotonic()` seconds after which nothing can be delivered.
            ledger_before: of what was done for the request before (recall), to go on with.
            warnings: of whoever read the request, to go on with.
            on_snapshot: is shown every order on the way.
            on_ledger: is given the ledger before anything is asked, to watch it grow.

        Raises:
            PodiumError: with `spent`, the ledger of what was used until then.

        """
        opened: list[Ledger] = []

        def watched(tell: Callable[[Ledger], None] | None) -> Callable[[Ledger], None]:
            def enter(ledger: Ledger) -> None:
                opened.append(ledger)
                if tell is not None:
                    tell(ledger)

            return enter

        def run(given: RankRequest) -> Coroutine[None, None, Outcome]:
            return self._rank(given, deadline_at, ledger_before, warnings, on_snapshot, watched(on_ledger))

        async def beside(
            request: RankRequest, deadline_at: float | None, on_ledger: Callable[[Ledger], None]
        ) -> Outcome:
            return await self._rank(request, deadline_at, None, (), None, watched(on_ledger))

        try:
            if self.experiments is None or request.caller is None:
                return await run(request)
            name = "" if request.inline is not None else request.pipeline or self.default_pipeline
            return await self.experiments.rank(name, request, request.caller, run, beside, deadline_at=deadline_at)
        except asyncio.CancelledError:
            # Nobody is left to read these, an incumbent's that had ended among them, and the money is spent all the
            # same. A shadow begins only when the answer is gone, and has an account of its own.
            for ledger in opened:
                self.spent_on_cancelled = self.spent_on_cancelled + ledger.total()
                self.known_nano_usd_on_cancelled += ledger.known_nano_usd
            raise
        except PodiumError as error:
            # Refused before anybody was asked: the recall before it is on the bill all the same.
            if error.spent is None:
                error.spent = ledger_before
            raise

    async def _rank(
        self,
        request: RankRequest,
        deadline_at: float | None,
        ledger_before: Ledger | None,
        warnings: tuple[Warned, ...],
        on_snapshot: Callable[[Snapshot], None] | None,
        on_ledger: Callable[[Ledger], None],
    ) -> Outcome:
        began = time.monotonic()
        pipeline = self.pipeline(request)
        n = len(request.candidates)
        seats, ledger = pipeline.seats(n)
        if ledger_before is not None:
            ledger.accounts = {**ledger_before.accounts, **ledger.accounts}
            ledger.critical_path_s = ledger_before.critical_path_s
            began -= ledger_before.wall_s
        on_ledger(ledger)
        work = Work(request, pipeline.name, ledger)
        async with AsyncExitStack() as inside:
            for guard in self.guards:
                await inside.enter_async_context(guard(work))
            outcome = await self._run(work, pipeline, seats, deadline_at, began, warnings, on_snapshot)
            work.outcome = outcome
        return outcome

    async def _run(
        self,
        work: Work,
        pipeline: Pipeline,
        seats: Mapping[str, Seat],
        deadline_at: float | None,
        began: float,
        warnings: tuple[Warned, ...],
        on_snapshot: Callable[[Snapshot], None] | None,
    ) -> Outcome:
        request, ledger = work.request, work.ledger
        case = _case(request, _earliest(began, request, deadline_at, reserve_s=0.0))
        execution = await self._execution(pipeline, pool_of(case))
        drive = Drive(
            execution=execution,
            panel=seats,
            case=case,
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
        self._measure(pipeline.name, ledger)
        return _outcome(pipeline, execution, drive, order, ledger, warnings)

    async def _execution(self, pipeline: Pipeline, pool: Pool) -> Execution:
        """Return the plan under way, refused beforehand where it would ask too much."""
        strategy = pipeline.strategy
        try:
            if pool.n > _UNCOUNTED_CANDIDATES and strategy.asks:
                # A plan over thousands takes a while to try: in a thread, and once for each strategy and size.
                self._check_size(pool.n, await asyncio.to_thread(_most_questions, strategy, pool.n))
            return Execution(strategy.plan(pool), pool.n)
        except PlanTooLarge as error:
            raise _too_large(error) from error

    def _check_size(self, n: int, questions: float) -> None:
        if questions > self.limits.questions:
            raise PlanTooLarge(
                f"up to {questions:,.0f} questions for {n:,} candidates, and limits.questions is "
                f"{self.limits.questions:,}"
            )

    def _measure(self, pipeline: str, ledger: Ledger) -> None:
        """Remember how long a round of each stage takes, the last requests counting most."""
        for account in ledger:
            if account.rounds:
                key = _measured_as(pipeline, account)
                round_s = account.critical_path_s / account.rounds
                self._round_s[key] = round_s + 0.8 * (self._round_s.get(key, round_s) - round_s)

    def _expected_s(self, pipeline: str, quote: Estimate) -> float | None:
        """Return the seconds that a plan is expected to take: stages add, voices of one stage stand side by side."""
        stages: dict[str, float] = {}
        for voice in quote.voices:
            if voice.rounds:
                round_s = self._round_s.get(_measured_as(pipeline, voice.account))
                if round_s is None:
                    return None
                stage = voice.account.stage.partition(".")[0]
                stages[stage] = max(stages.get(stage, 0.0), voice.rounds * round_s)
        return sum(stages.values())

    def estimate(self, request: RankRequest) -> tuple[Pipeline, Estimate]:
        """Return what a request would cost. Calls no model.

        Raises:
            NotFound, InvalidRequest, FailedPrecondition: as `rerank`.

        """
        pipeline = self.pipeline(request)
        n = len(request.candidates)
        try:
            if n > _UNCOUNTED_CANDIDATES:
                self._check_size(n, _most_questions(pipeline.strategy, n))
            quote = estimate(pipeline, _case(request, None))
            return pipeline, replace(quote, time_s=self._expected_s(pipeline.name, quote))
        except PlanTooLarge as error:
            raise _too_large(error) from error

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


def _measured_as(pipeline: str, account: Account) -> tuple[str, str]:
    """Return under which name a stage's rounds are remembered.

    Names of stages that came with a request are the caller's to choose: without a bound, and of whatever kind. They go
    by their strategy and model.
    """
    return (pipeline, account.stage) if pipeline else ("", f"{account.strategy} {account.model}")


def _too_large(error: PlanTooLarge) -> InvalidRequest:
    # A strategy's own limit is an option of its, and the message names it.
    ours = {"limit": "questions"} if "limits.questions" in str(error) else {}
    return InvalidRequest("documents", f"too many for this pipeline: {error}", metadata=ours)


@lru_cache(maxsize=4096)
def _most_questions(strategy: Strategy, n: int) -> float:
    """Return the most questions that a plan over `n` candidates asks, or as many as a truthful judge leads to."""
    quote = forecast(strategy, Pool(n), seeds=(1,))
    return max(quote.questions, quote.questions_max or 0)


@dataclass(slots=True)
class _Admission:
    """A place among the running requests, given back on every way out."""

    reranker: Reranker
    deadline_at: float | None
    give_back: Callable[[], None] | None = None

    async def __aenter__(self) -> None:
        reranker = self.reranker
        if reranker.draining:
            raise Unavailable("this server is stopping; another one will answer")
        if reranker.place is not None:
            try:
                self.give_back = await reranker.place(self.deadline_at)
            except Overloaded:
                reranker.refused += 1
                raise
        elif reranker.running >= reranker.limits.concurrent_requests:
            reranker.refused += 1
            raise Overloaded(
                f"{reranker.running} requests are at work, and limits.concurrent_requests is "
                f"{reranker.limits.concurrent_requests}; try again later",
                retry_after_s=0.5,
                metadata={"limit": "concurrent_requests"},
            )
        reranker.running += 1

    async def __aexit__(self, *_: object) -> None:
        self.reranker.running -= 1
        if self.give_back is not None:
            self.give_back()
        if not self.reranker.running:
            self.reranker._idle.set()


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
    scores = result.scores if result is not None and result.scores is not None else (None,) * execution.n
    return Outcome(
        order=order,
        scores=scores,
        score_kind=pipeline.score_kind,
        provenance=drive.provenance,
        completion=drive.completion,
        cause=drive.cause.message if drive.cause is not None else "",
        ledger=ledger,
        warnings=(*warnings, *_closing_warnings(pipeline, drive, ledger)),
        trace=tuple(drive.trace),
        pipeline=pipeline.name,
        cause_reason=drive.cause.reason if drive.cause is not None else "",
    )


def _closing_warnings(pipeline: Pipeline, drive: Drive, ledger: Ledger) -> list[Warned]:
    """Return what the ledger shows that the caller should know."""
    total = ledger.total()
    warnings: list[Warned] = []
    if drive.given_up:
        warnings += [
            Warned("BACKEND_FAILED", f"the stage {stage} was given up, and the next one went on without it: {error}")
            for stage, error in drive.given_up
        ]
    elif drive.cause is not None:
        warnings.append(Warned("PARTIAL", drive.cause.message))
    else:
        warnings += [
            Warned("STAGE_SKIPPED", f"{stage} asked nothing and left the order before it as it was")
            for stage in pipeline.skipped(ledger)
        ]
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
