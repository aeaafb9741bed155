"""Drives one plan with real judges: every branch at its own pace, within the request's budget.

All of it runs on the event loop. Judges deliver through a sink, the plan goes on in the same moment, and what becomes
ready is asked at once: between an answer and the next question lies nothing but the plan itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from podium_server.accounting.ledger import Account, Ledger
from podium_server.accounting.usage import Usage
from podium_server.errors import (
    BackendDown,
    BackendRefused,
    BudgetExhausted,
    DeadlineExceeded,
    FailedPrecondition,
    Overloaded,
    PodiumError,
    UnreadableReply,
)
from podium_server.judges.case import Case
from podium_server.judges.judge import Judge, Ruling
from podium_server.ranking.request import (
    Budget,
    Completion,
    Explain,
    OnExhausted,
    Provenance,
    Snapshot,
    TracedQuestion,
    TracedRound,
)
from podium_server.ranking.stage_spans import StageSpans
from podium_strategies.drive import Asked, Execution
from podium_strategies.plan import Permutation, PlanError, Question

# What a partial answer may excuse: a machine's failure. A caller's mistake is never turned into an order.
_EXCUSED = (BackendDown, BackendRefused, Overloaded, UnreadableReply)


class _Amounts(NamedTuple):
    """What a budget counts."""

    calls: int
    tokens: int
    cost_nano_usd: int

    @classmethod
    def of(cls, usage: Usage) -> _Amounts:
        return cls(usage.calls, usage.tokens, usage.cost_nano_usd or 0)

    def plus(self, other: _Amounts) -> _Amounts:
        return _Amounts(*(one + another for one, another in zip(self, other, strict=True)))

    def minus(self, other: _Amounts) -> _Amounts:
        return _Amounts(*(one - another for one, another in zip(self, other, strict=True)))

    def share(self, part: int, whole: int) -> _Amounts:
        """Return `part` of `whole` of everything, rounded up: a budget is never passed for a rounding."""
        return _Amounts(*(-(-amount * part // whole) for amount in self))


@dataclass(frozen=True, slots=True)
class Seat:
    """Who answers a role's questions, the account that pays for it, and whether the stage may be left out."""

    judge: Judge
    account: Account
    skippable: bool = False


def role_in(roles: Container[str], role: str) -> str:
    """Return who answers for a role: whoever has it, or the stage that it belongs to.

    Raises:
        FailedPrecondition: nobody does.

    """
    asked = role
    while asked not in roles and "." in asked:
        asked = asked.rpartition(".")[0]
    if asked not in roles:
        raise FailedPrecondition(f"no judge is configured for the role {role!r} of this pipeline")
    return asked


@dataclass(slots=True)
class Drive:
    """One plan under way with its judges. `run` is called once.

    Args:
        execution: the plan.
        panel: seats by role.
        case: what the judges may know.
        ledger: written as answers come.
        budget: bounds; `deadline_at` is the soft deadline in `time.monotonic()` seconds.
        on_snapshot: is called before every round, for streams of orders on the way.
        explain: what to keep for the trace.

    """

    execution: Execution
    panel: Mapping[str, Seat]
    case: Case
    ledger: Ledger
    budget: Budget
    deadline_at: float | None = None
    on_snapshot: Callable[[Snapshot], None] | None = None
    explain: Explain = Explain.NONE

    provenance: list[Provenance] = field(init=False)
    trace: list[TracedRound] = field(init=False, default_factory=list)
    completion: Completion = field(init=False, default=Completion.COMPLETE)
    cause: PodiumError | None = field(init=False, default=None)
    given_up: list[tuple[str, PodiumError]] = field(init=False, default_factory=list)
    """Stages whose model failed, and why; the next stage went on without them."""
    _answered: int = field(init=False, default=0)
    _tasks: dict[asyncio.Task[None], _RoundSink] = field(init=False, default_factory=dict)
    _reserved: _Amounts = field(init=False, default_factory=lambda: _Amounts(0, 0, 0))
    _began: float = field(init=False, default_factory=time.monotonic)
    _first_depth: dict[str, int] = field(init=False, default_factory=dict)
    _path_before: dict[str, float] = field(init=False, default_factory=dict)
    _started: dict[str, float] = field(init=False, default_factory=dict)
    _spans: StageSpans = field(init=False, default_factory=StageSpans)
    _ended: _Ended | None = field(init=False, default=None)
    """Why nothing more is asked; the first reason stands. None while the plan goes on."""
    _over: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    """Set when there is nobody left to wait for."""

    def __post_init__(self) -> None:
        self.provenance = [Provenance.CARRIED_OVER] * self.execution.n

    async def run(self) -> Permutation:
        """Drive the plan to its end or to the end of its budget, and return the order that stands then.

        Raises:
            BudgetExhausted, DeadlineExceeded: where the budget asks for an error.
            PodiumError: a judge failed before anybody had answered anything, or for a reason that is the caller's.
            asyncio.CancelledError: the caller has gone; all judges are stopped first, and what they spent is entered.

        """
        try:
            self._launch()
            if not self._over.is_set():
                await self._end()
        finally:
            self._stop(Completion.COMPLETE, None)
            await self._cancel_tasks()
            self._spans.end()
            self.ledger.rounds = max(self.ledger.rounds, self.execution.depth)
            self.ledger.critical_path_s += self.execution.critical_path
        return self._ending(self._ended or _Ended(Completion.COMPLETE, None))

    async def _end(self) -> None:
        """Wait for the end of the plan or of the time."""
        remaining_s = None if self.deadline_at is None else max(0.0, self.deadline_at - time.monotonic())
        try:
            async with asyncio.timeout(remaining_s):
                await self._over.wait()
        except TimeoutError:
            self._stop(Completion.PARTIAL_DEADLINE, None)

    # --- asking -------------------------------------------------------------------------------------------------

    def _launch(self) -> None:
        """Ask whatever the plan has ready, and notice the end."""
        while self._ended is None and (ready := self.execution.take()):
            for asked in ready:
                self._ask(asked)
        self._notice_the_end()

    def _ask(self, asked: Asked) -> None:
        roles: dict[str, list[int]] = {}
        for index, question in enumerate(asked.questions):
            roles.setdefault(question.role, []).append(index)
        for role, indices in roles.items():
            if self._ended is not None:
                return
            seat = self._seat(role)
            questions = [asked.questions[index] for index in indices]
            reserved = self._reserve(seat, questions) if self.budget.counts else None
            if self._ended is not None:
                return
            account = seat.account
            account.questions += len(questions)
            first = self._first_depth.setdefault(account.stage, asked.depth)
            account.rounds = max(account.rounds, asked.depth - first + 1)
            self._started.setdefault(account.stage, time.monotonic())
            self._path_before.setdefault(account.stage, self.execution.critical_path)
            sink = _RoundSink(self, seat, asked, indices, len(indices), reserved)
            self._tell(sink, asked.depth - first + 1)
            ruling = seat.judge.rule(self.case, questions, sink)
            task = asyncio.create_task(ruling, name=f"judge {role}", context=self._spans.context(account))
            self._tasks[task] = sink
            task.add_done_callback(partial(self._judge_done, sink))

    def _tell(self, sink: _RoundSink, number: int) -> None:
        """Show the order that stands before a round to whoever wants to see it."""
        stage = sink.seat.account.stage
        if self.on_snapshot is not None:
            elapsed_s = time.monotonic() - self._began
            self.on_snapshot(Snapshot(self.execution.so_far, stage, number, self.ledger.total(), elapsed_s))
        if self.explain is not Explain.NONE:
            sink.traced = TracedRound(stage, number, self.execution.so_far, len(sink.indices))
            self.trace.append(sink.traced)
            if self.explain is Explain.QUESTIONS:
                model = sink.seat.judge.facts.model
                asked = sink.asked.questions
                sink.traced.questions = [TracedQuestion(asked[index], model, None) for index in sink.indices]

    def _seat(self, role: str) -> Seat:
        """Return the seat of a role: its own, or that of the stage that it belongs to."""
        return self.panel[role_in(self.panel, role)]

    def _reserve(self, seat: Seat, questions: Sequence[Question[Any]]) -> _Amounts:
        """Set the forecast of these questions aside, or stop where the budget does not hold it."""
        forecast, spent = seat.judge.estimate(self.case, questions), self.ledger.total()
        budget = self.budget
        if budget.max_cost_nano_usd is not None:
            unpriced = {account.model for account in self.ledger if account.usage.cost_nano_usd is None}
            if forecast.cost_nano_usd is None:
                unpriced.add(seat.judge.facts.model)
            if unpriced:
                raise FailedPrecondition(
                    f"max_cost_nano_usd is set, and no price is configured for all that {', '.join(sorted(unpriced))} "
                    "uses, so that the cost cannot be bounded; configure models.<name>.prices, or use max_calls or "
                    "max_tokens"
                )
        wanted = _Amounts.of(forecast)
        after = _Amounts.of(spent).plus(self._reserved).plus(wanted)
        for name, limit, amount in (
            ("max_calls", budget.max_calls, after.calls),
            ("max_tokens", budget.max_tokens, after.tokens),
            ("max_cost_nano_usd", budget.max_cost_nano_usd, after.cost_nano_usd),
        ):
            if limit is not None and amount > limit:
                self._stop(
                    Completion.PARTIAL_BUDGET,
                    BudgetExhausted(f"the next round would bring {name} to {amount}, and the budget is {limit}"),
                )
                return wanted
        self._reserved = self._reserved.plus(wanted)
        return wanted

    # --- hearing ------------------------------------------------------------------------------------------------

    def answered(self, sink: _RoundSink, place: int, ruling: Ruling, elapsed_s: float) -> None:
        """Enter one ruling, and let the plan go on if its round is complete (called by the round's sink)."""
        asked, index, account = sink.asked, sink.indices[place], sink.seat.account
        now = time.monotonic()
        account.add(ruling.usage)
        self._release(sink)
        account.wall_s = now - self._started[account.stage]
        if sink.traced is not None:
            sink.traced.elapsed_s = now - self._began
            if sink.traced.questions:
                sink.traced.questions[place] = replace(sink.traced.questions[place], ruling=ruling)
        question = asked.questions[index]
        self._answered += 1
        for item in question.items:
            if ruling.repaired:
                self.provenance[item] = Provenance.REPAIRED
            elif self.provenance[item] is Provenance.CARRIED_OVER:
                self.provenance[item] = Provenance.SCORED
        if self._over.is_set() or sink.dropped:
            return  # too late for the plan; the bill has it
        try:
            complete = self.execution.answer(asked.id, index, ruling.answer, cost=elapsed_s)
            if complete:
                account.critical_path_s = self.execution.critical_path - self._path_before[account.stage]
                self._launch()
        except Exception as error:  # noqa: BLE001  # a plug-in's own code runs here, inside a judge's call
            self._fail(error)

    def _release(self, sink: _RoundSink) -> None:
        """Give back what was set aside for one question: what its answer used stands in the ledger now."""
        sink.open -= 1
        if sink.reserved is not None:
            n = len(sink.indices)
            still, before = sink.reserved.share(sink.open, n), sink.reserved.share(sink.open + 1, n)
            self._reserved = self._reserved.plus(still).minus(before)

    def _judge_done(self, sink: _RoundSink, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        error: BaseException | None = None if task.cancelled() else _first(task.exception())
        if sink.dropped:
            pass
        elif error is not None:
            if not (sink.seat.skippable and self._give_up(sink, error)):
                self._fail(error)
        elif sink.open > 0 and self._ended is None:
            # Its backend was closed under it, or it is defective: nobody else will answer what it was asked.
            model = sink.seat.judge.facts.model
            self._fail(BackendDown(f"the model {model!r} stopped and left {sink.open} questions unanswered"))
        self._notice_the_end()

    def _give_up(self, sink: _RoundSink, error: BaseException) -> bool:
        """Leave a stage out whose model failed, and let the next one go on; return whether that was possible."""
        wanted = self.budget.on_exhausted is OnExhausted.PARTIAL and self._ended is None
        if not wanted or not isinstance(error, _EXCUSED):
            return False
        for task, other in [*self._tasks.items(), (None, sink)]:
            # Stages take turns, so that all of these are of this one.
            other.dropped = True
            if other.reserved is not None:
                self._reserved = self._reserved.minus(other.reserved.share(other.open, len(other.indices)))
                other.reserved = None
            if task is not None:
                task.cancel()
        self.given_up.append((sink.seat.account.stage.partition(".")[0], error))
        try:
            self.execution.give_up()
            self._launch()
        except Exception as defect:  # noqa: BLE001  # a plug-in's own code runs here
            self._fail(defect)
        return True

    # --- ending -------------------------------------------------------------------------------------------------

    def _notice_the_end(self) -> None:
        if not self._tasks and (self._ended is not None or self.execution.result is not None):
            self._over.set()

    def _fail(self, error: BaseException) -> None:
        """A judge cannot answer: no plan goes on without an answer, so nobody else needs to be heard."""
        # A judge that sees the deadline come first is as right about it as our own clock.
        late = isinstance(error, DeadlineExceeded)
        self._stop(Completion.PARTIAL_DEADLINE if late else Completion.PARTIAL_BACKEND, error)
        self._over.set()

    def _stop(self, completion: Completion, cause: BaseException | None) -> None:
        """Ask nothing more. The first reason stands. What is under way may still come in, if there is time."""
        if self._ended is None:
            self._ended = _Ended(completion, cause)
        self._notice_the_end()

    async def _cancel_tasks(self) -> None:
        tasks = list(self._tasks)
        if not tasks:
            return
        self._over.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ending(self, ended: _Ended) -> Permutation:
        """Return the order that stands at the end, or raise what the caller has to hear instead."""
        if self.execution.result is not None:
            if self.given_up:
                self.completion, (_, self.cause) = Completion.PARTIAL_BACKEND, self.given_up[0]
            return self.execution.result.order
        cause = ended.cause
        if isinstance(cause, PlanError):
            raise PodiumError(f"the strategy is defective: {cause}") from cause
        if cause is None and ended.completion is Completion.PARTIAL_DEADLINE:
            cause = DeadlineExceeded(f"the soft deadline passed after {self._answered} answers")
        if not isinstance(cause, PodiumError):
            raise cause or PlanError("a plan neither ended nor asked")
        no_order = ended.completion is Completion.PARTIAL_BACKEND and (
            self._answered == 0 or not isinstance(cause, _EXCUSED)
        )
        if no_order or self.budget.on_exhausted is OnExhausted.FAIL:
            raise cause
        order = self.execution.so_far
        self.execution.close()
        self.completion, self.cause = ended.completion, cause
        return order


class _Ended(NamedTuple):
    """Why nothing more was asked."""

    completion: Completion
    cause: BaseException | None


def _first(error: BaseException | None) -> BaseException | None:
    """Return the error itself, or the first of the group in which a judge's task group wrapped it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@dataclass(slots=True)
class _RoundSink:
    """Takes one judge's rulings on its share of one round."""

    drive: Drive
    seat: Seat
    asked: Asked
    indices: list[int]
    open: int
    """Questions that are not answered yet."""
    reserved: _Amounts | None
    """Of the budget, for all of them together; None where nothing is bounded."""
    traced: TracedRound | None = None
    dropped: bool = False
    """Its stage was given up: what still comes in is entered in the bill, and the plan is told nothing."""

    def ruled(self, index: int, ruling: Ruling, *, elapsed_s: float) -> None:
        self.drive.answered(self, index, ruling, elapsed_s)

    def spent(self, usage: Usage) -> None:
        self.seat.account.add(usage)
