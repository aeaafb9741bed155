"""Runs one strategy over one list against the simulated judge, in simulated time.

The plan, the machine that runs it (`Execution`), the prompts, the judge that reads replies (`ChatJudge`), prices and
ledger are Podium's own; what is not there is the event loop and the network. Questions are asked as soon as the plan
has them ready, and answered at the time at which the endpoint's model of latency has the reply.
"""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

from podium_evals.simulate.chat import SimulatedChat
from podium_server.accounting.usage import Usage
from podium_server.judges.case import Case
from podium_server.judges.chat.judge import ChatJudge
from podium_server.judges.judge import Ruling
from podium_server.ranking.pipeline import pool_of
from podium_strategies.drive import Execution
from podium_strategies.plan import Permutation, PlanError, Strategy


@dataclass(frozen=True, slots=True)
class Run:
    """One list, ranked.

    Args:
        order: places of the list, best first.
        usage: of all calls.
        questions: asked.
        rounds: of the longest chain.
        latency_s: on the simulated clock.

    """

    order: Permutation
    usage: Usage
    questions: int
    rounds: int
    latency_s: float


@dataclass(slots=True)
class _Sink:
    ruling: Ruling = field(default_factory=lambda: Ruling(None))

    def ruled(self, index: int, ruling: Ruling, *, elapsed_s: float) -> None:
        self.ruling = ruling

    def spent(self, usage: Usage) -> None:
        raise PlanError(f"a simulated call was in vain: {usage}")


def run(strategy: Strategy, case: Case, judge: ChatJudge, chat: SimulatedChat) -> Run:
    """Run a strategy over a case.

    Args:
        strategy: whose plan to run.
        case: the query and its candidates.
        judge: over `chat`; it has the prompts.
        chat: with a fresh endpoint, or one that calls before have warmed.

    """
    pool = pool_of(case)
    execution = Execution(strategy.plan(pool), pool.n)
    began = now = chat.now
    total = Usage()
    repairs: dict[str, int] = {}
    coming: list[tuple[float, int, int, int, Any]] = []
    number = 0
    while True:
        for asked in execution.take():
            for index, question in enumerate(asked.questions):
                sink = _Sink()
                chat.now = now
                _finish(judge.rule(case, (question,), sink))
                heappush(coming, (chat.now, number, asked.id, index, sink.ruling.answer))
                number += 1
                total = total + _without_repairs(sink.ruling.usage, repairs)
        if not coming:
            break
        now, _, round_id, index, answer = heappop(coming)
        execution.answer(round_id, index, answer)
    if execution.result is None:
        raise PlanError("a plan neither ended nor asked")
    chat.now = now
    usage = total + Usage(repairs=repairs)
    return Run(execution.result.order, usage, execution.asked, execution.depth, now - began)


def _without_repairs(usage: Usage, repairs: dict[str, int]) -> Usage:
    """Enter the repairs into one table: adding maps ten thousand times is most of what adding usage costs."""
    for name, count in usage.repairs.items():
        repairs[name] = repairs.get(name, 0) + count
    return Usage(
        calls=usage.calls,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        output_tokens=usage.output_tokens,
        cost_nano_usd=usage.cost_nano_usd,
        cost_basis=usage.cost_basis,
    )


def _finish(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise PlanError("a simulated call waited for something")
