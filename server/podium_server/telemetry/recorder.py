"""Keeps the figures of calls and requests: two guards, which see every way out, and add to counters.

A request's figures come from its ledger, once, on the way out; nothing is counted while it runs. What was resolved
once (the counters of a pipeline's stage) is kept, so that a request costs microseconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from prometheus_client import Counter

from podium_server.accounting.ledger import Account, Ledger
from podium_server.accounting.prices import NANO_PER_USD
from podium_server.accounting.usage import CostBasis
from podium_server.errors import PodiumError
from podium_server.ranking.guard import Work
from podium_server.ranking.request import Outcome
from podium_server.telemetry import metrics
from podium_server.telemetry.metrics import BEST, INLINE, OTHER, PHASES, TOKEN_KINDS
from podium_server.telemetry.registry import Registry
from podium_server.transport import status
from podium_server.transport.door import Call

_DIALECTS_MAX = 64


class Bounded:
    """The first few values of a label by their names, and all later ones as `other`: what bounds the series.

    Args:
        most: values that keep their names.
        known: that are among them from the start.

    """

    def __init__(self, most: int, known: Iterable[str] = ()) -> None:
        self.most = most
        self._seen = set(known)

    def __call__(self, value: str) -> str:
        """Return the value, or `other`."""
        if value in self._seen:
            return value
        if len(self._seen) >= self.most:
            return OTHER
        self._seen.add(value)
        return value


class Recorder:
    """The counters of calls and requests.

    Args:
        registry: where they are made.
        pipelines: of the configuration.
        limits: names of limits that an error may name.
        tenants_max: tenants that have series of their own; later ones share `other`.
        tenant_of: the tenant of the running call; empty for none.

    """

    def __init__(
        self,
        registry: Registry,
        *,
        pipelines: Collection[str],
        limits: Collection[str],
        tenants_max: int = 50,
        tenant_of: Callable[[], str] = lambda: "",
    ) -> None:
        self._pipelines = frozenset(pipelines)
        self._limits = frozenset(limits)
        self._tenant_of = tenant_of
        self._tenant = Bounded(tenants_max)
        self._repair = Bounded(64)
        self._via = Bounded(_DIALECTS_MAX, ("grpc",))
        self._calls = registry.counter(metrics.CALLS)
        self._call_seconds = registry.histogram(metrics.CALL_SECONDS)
        self._running = registry.gauge(metrics.CALLS_RUNNING)
        self._refusals = registry.counter(metrics.REFUSALS)
        self._tenant_calls = registry.counter(metrics.TENANT_CALLS)
        self._tenant_tokens = registry.counter(metrics.TENANT_TOKENS)
        self._tenant_cost = registry.counter(metrics.TENANT_COST)
        self._requests = registry.counter(metrics.REQUESTS)
        self._request_seconds = registry.histogram(metrics.REQUEST_SECONDS)
        self._candidates = registry.histogram(metrics.CANDIDATES)
        self._rounds = registry.histogram(metrics.ROUNDS)
        self._warnings = registry.counter(metrics.WARNINGS)
        self._failed_over = registry.counter(metrics.STAGES_SKIPPED)
        self._score = registry.histogram(metrics.SCORE)
        self._rank_change = registry.histogram(metrics.RANK_CHANGE)
        self._stage_seconds = registry.histogram(metrics.STAGE_SECONDS)
        self._repairs = registry.counter(metrics.REPAIRS)
        self._by_stage = {
            metric: registry.counter(metric)
            for metric in (
                metrics.QUESTIONS,
                metrics.MODEL_CALLS,
                metrics.RETRIES,
                metrics.COST,
                metrics.COST_UNKNOWN,
                metrics.CACHE_ANSWERS,
                metrics.TRUNCATED,
            )
        }
        self._tokens = registry.counter(metrics.TOKENS)
        self._model_seconds = registry.counter(metrics.MODEL_SECONDS)
        self._stages: dict[tuple[str, str, str], _StageCounters] = {}

    # --- calls --------------------------------------------------------------------------------------------------

    def call(self, call: Call) -> _CallGuard:
        """Stand around a call (a `transport.door.Guard`)."""
        return _CallGuard(self, call)

    def entered(self) -> None:
        """Note that a call has come in."""
        self._running.inc()
        status.told.set(self.refused)

    def left(self, call: Call, code: str) -> None:
        """Note that a call has ended."""
        self._running.dec()
        self._calls.labels(call.method, code, self._via(call.via)).inc()
        self._call_seconds.labels(call.method).observe(time.monotonic() - call.began)
        tenant = self._tenant_of()
        if tenant:
            self._tenant_calls.labels(self._tenant(tenant), code).inc()

    def refused(self, error: BaseException) -> None:
        """Note an error that a caller is told of, at the end of a call or in an answer."""
        if not isinstance(error, PodiumError):
            self._refusals.labels(PodiumError.reason, "").inc()
            return
        limit = error.metadata.get("limit", "")
        self._refusals.labels(error.reason, limit if limit in self._limits else "").inc()

    # --- requests -----------------------------------------------------------------------------------------------

    def work(self, work: Work) -> _WorkGuard:
        """Stand around a request (a `ranking.guard.Guard`)."""
        return _WorkGuard(self, work)

    def done(self, work: Work, outcome: str) -> None:
        """Enter a request that has ended: its outcome, its ledger, and its order where there is one."""
        pipeline = work.pipeline if work.pipeline in self._pipelines else INLINE
        self._requests.labels(pipeline, outcome).inc()
        if work.ledger.wall_s:  # 0 where nothing of it was begun
            self._request_seconds.labels(pipeline).observe(work.ledger.wall_s)
            self._candidates.labels(pipeline).observe(len(work.request.candidates))
        self._enter_ledger(pipeline, work.ledger)
        if work.outcome is not None:
            self._enter_outcome(pipeline, work.outcome)

    def _enter_ledger(self, pipeline: str, ledger: Ledger) -> None:
        if ledger.rounds:
            self._rounds.labels(pipeline).observe(ledger.rounds)
        for account in ledger:
            if account.wall_s:
                stage = account.strategy if pipeline == INLINE else account.stage
                self._stage_seconds.labels(pipeline, stage).observe(account.wall_s)
            if account.questions or account.usage.calls or account.usage.cache_hits:
                self._counters(pipeline, account).enter(account)
                for name, count in account.usage.repairs.items():
                    self._repairs.labels(account.model, self._repair(name)).inc(count)
        tenant = self._tenant_of()
        if tenant:
            self._tenant_tokens.labels(self._tenant(tenant)).inc(sum(account.usage.tokens for account in ledger))
            self._tenant_cost.labels(self._tenant(tenant)).inc(ledger.known_nano_usd / NANO_PER_USD)

    def _counters(self, pipeline: str, account: Account) -> _StageCounters:
        # Names of stages that came with a request are the caller's to choose; strategies are not.
        stage = account.strategy if pipeline == INLINE else account.stage
        key = (pipeline, stage, account.model)
        found = self._stages.get(key)
        if found is None:
            found = self._stages[key] = _StageCounters(
                {metric: counter.labels(*key) for metric, counter in self._by_stage.items()},
                tuple(self._tokens.labels(*key, kind) for kind in TOKEN_KINDS),
                tuple(self._model_seconds.labels(account.model, phase) for phase in PHASES),
            )
        return found

    def _enter_outcome(self, pipeline: str, outcome: Outcome) -> None:
        change = self._rank_change.labels(pipeline)
        score = self._score.labels(pipeline)
        for rank, place in enumerate(outcome.order[:BEST]):
            change.observe(abs(place - rank))
            value = outcome.scores[place]
            if value is not None:
                score.observe(value)
        for warned in outcome.warnings:
            self._warnings.labels(pipeline, warned.code).inc()
            if warned.code == "BACKEND_FAILED":
                self._failed_over.labels(pipeline).inc()


@dataclass(frozen=True, slots=True)
class _StageCounters:
    """The counters of one stage with one model."""

    counters: dict[metrics.Metric, Counter]
    tokens: tuple[Counter, ...]
    seconds: tuple[Counter, ...]

    def enter(self, account: Account) -> None:
        """Add what a request used."""
        usage, counters = account.usage, self.counters
        counters[metrics.QUESTIONS].inc(account.questions)
        for metric, amount in (
            (metrics.MODEL_CALLS, usage.calls),
            (metrics.RETRIES, usage.retries),
            (metrics.COST, (usage.cost_nano_usd or 0) / NANO_PER_USD),
            (metrics.COST_UNKNOWN, usage.cost_basis is CostBasis.UNKNOWN),
            (metrics.CACHE_ANSWERS, usage.cache_hits),
            (metrics.TRUNCATED, usage.truncated_documents),
        ):
            if amount:
                counters[metric].inc(amount)
        kinds = (usage.prompt_tokens, usage.cached_tokens, usage.output_tokens, usage.reasoning_tokens)
        for counter, amount in zip(self.tokens, kinds, strict=True):
            if amount:
                counter.inc(amount)
        for counter, seconds in zip(self.seconds, (usage.queue_s, usage.tokenize_s, usage.backend_s), strict=True):
            if seconds:
                counter.inc(seconds)


class _CallGuard:
    """A context manager written out: a generator's would take as long as the counting."""

    __slots__ = ("call", "recorder")

    def __init__(self, recorder: Recorder, call: Call) -> None:
        self.recorder = recorder
        self.call = call

    async def __aenter__(self) -> None:
        self.recorder.entered()

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.recorder.left(self.call, status.code_of(error))


class _WorkGuard:
    __slots__ = ("recorder", "work")

    def __init__(self, recorder: Recorder, work: Work) -> None:
        self.recorder = recorder
        self.work = work

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None and self.work.outcome is not None:
            outcome = self.work.outcome.completion.value
        else:
            outcome = "cancelled" if isinstance(error, asyncio.CancelledError) else "failed"
        self.recorder.done(self.work, outcome)
