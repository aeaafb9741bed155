"""Deadlines, soft and hard, and callers who go away: over a real socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from podium.v1 import ranking_pb2, rerank_service_pb2
from podium_server.judges.case import Case
from podium_server.judges.judge import Sink
from podium_strategies.oracle import Oracle
from podium_strategies.plan import Question
from tests.ranking.scripted import ScriptedJudge
from tests.wire.serving import Standing, refused, request, serving, standing, until


@dataclass
class Watched(ScriptedJudge):
    """A judge that remembers into which accounts its usage was entered."""

    sinks: list[Any] = field(default_factory=list)

    async def rule(self, case: Case, questions: Sequence[Question[Any]], sink: Sink) -> None:
        self.sinks.append(sink)
        await super().rule(case, questions, sink)

    @property
    def entered_calls(self) -> int:
        accounts = {id(sink.seat.account): sink.seat.account for sink in self.sinks}
        return sum(account.usage.calls for account in accounts.values())


def slow(n: int = 16, delay_s: float = 0.1) -> Watched:
    return Watched(Oracle.seeded(n, 3), delay_s=lambda _: delay_s)


async def gone(podium: Standing) -> None:
    """Wait until no request is at work."""
    await until(lambda: not podium.reranker.running)


async def test_a_soft_deadline_gives_the_best_order_so_far() -> None:
    judge = slow()
    message = request(16, "window")
    message.budget.soft_deadline.FromMilliseconds(350)
    async with serving(standing(judge)) as stubs:
        began = time.monotonic()
        answer = await stubs.rerank.Rerank(message)
        took_s = time.monotonic() - began
        whole = await stubs.rerank.Rerank(request(16, "window"))
    assert 0.3 < took_s < 0.8
    assert answer.completion == ranking_pb2.COMPLETION_PARTIAL_DEADLINE
    assert sorted(ranked.input_index for ranked in answer.ranking) == list(range(16))
    # Three windows from the tail were ordered: what was best there has come forward, and the head is untouched.
    assert [ranked.input_index for ranked in answer.ranking[:6]] == list(range(6))
    assert [ranked.input_index for ranked in answer.ranking] != list(range(16))
    assert {ranked.provenance for ranked in answer.ranking} == {
        ranking_pb2.PROVENANCE_SCORED,
        ranking_pb2.PROVENANCE_CARRIED_OVER,
    }
    # What was under way at that moment is charged, too.
    assert answer.ledger.total.calls == judge.cancelled + 3
    assert whole.completion == ranking_pb2.COMPLETION_COMPLETE


async def test_it_is_an_error_with_the_ledger_where_that_was_asked_for() -> None:
    message = request(16, "window")
    message.budget.soft_deadline.FromMilliseconds(250)
    message.budget.on_exhausted = 2
    async with serving(standing(slow())) as stubs:
        error = await refused(stubs.rerank.Rerank(message))
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert error.info.reason == "DEADLINE_EXCEEDED"
    assert error.ledger.total.calls >= 2


async def test_the_deadline_of_the_call_gives_a_partial_answer_in_time() -> None:
    async with serving(standing(slow())) as stubs:
        answer = await stubs.rerank.Rerank(request(16, "window"), timeout=0.45)
    assert answer.completion == ranking_pb2.COMPLETION_PARTIAL_DEADLINE
    assert len(answer.ranking) == 16


async def test_the_earlier_of_both_counts() -> None:
    message = request(16, "window")
    message.budget.soft_deadline.FromSeconds(60)
    async with serving(standing(slow())) as stubs:
        answer = await stubs.rerank.Rerank(message, timeout=0.45)
    assert answer.completion == ranking_pb2.COMPLETION_PARTIAL_DEADLINE


@pytest.mark.parametrize("method", ["Rerank", "StreamRerank", "BatchRerank", "Compare"])
async def test_a_cancelled_call_stops_its_judges_and_is_charged(method: str) -> None:
    judge = slow(delay_s=30.0)
    podium = standing(judge)
    async with serving(podium) as stubs:
        match method:
            case "Rerank":
                call: Any = stubs.rerank.Rerank(request(8, "points"))
                asked = 8
            case "StreamRerank":
                call = stubs.rerank.StreamRerank(rerank_service_pb2.StreamRerankRequest(request=request(8, "points")))
                asked = 8
            case "BatchRerank":
                call = stubs.rerank.BatchRerank()
                for i in range(3):
                    await call.write(
                        rerank_service_pb2.BatchRerankRequest(item_id=str(i), request=request(8, "points"))
                    )
                asked = 24
            case _:
                points = rerank_service_pb2.Contender(pipeline="points")
                call = stubs.rerank.Compare(
                    rerank_service_pb2.CompareRequest(request=request(8), contenders=[points, points])
                )
                asked = 16
        await until(lambda: len(judge.asked) >= asked)
        assert judge.cancelled == 0
        call.cancel()
        await gone(podium)
        assert judge.cancelled == asked
        assert judge.entered_calls == asked
        assert stubs.server.door.running == 0


async def test_a_caller_whose_connection_breaks_is_gone_too() -> None:
    judge = slow(delay_s=30.0)
    podium = standing(judge)
    async with serving(podium) as stubs:
        channel = grpc.aio.insecure_channel(stubs.address, options=[("grpc.use_local_subchannel_pool", 1)])
        call = channel.unary_unary("/podium.v1.RerankService/Rerank")(request(8, "points").SerializeToString())
        await until(lambda: len(judge.asked) == 8)
        await channel.close()
        await gone(podium)
        assert judge.cancelled == 8
        del call


async def test_a_deadline_that_passes_before_the_server_can_answer() -> None:
    """Shorter than the reserve for sending: the work stops at once, and nothing is left behind."""
    judge = slow(delay_s=30.0)
    podium = standing(judge)
    async with serving(podium) as stubs:
        call = stubs.rerank.Rerank(request(8, "points"), timeout=0.001)
        # A reply may still slip through, on a client that was busy itself; it is then a partial one.
        if await call.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
            assert (await call).completion == ranking_pb2.COMPLETION_PARTIAL_DEADLINE
        await gone(podium)
        assert judge.cancelled == len(judge.asked)


async def test_one_item_that_takes_long_does_not_hold_up_a_batch() -> None:
    judge = Watched(Oracle.seeded(16, 3), delay_s=lambda number: 30.0 if number == 0 else 0.0)
    podium = standing(judge)
    async with serving(podium) as stubs:
        call = stubs.rerank.BatchRerank()
        for i in range(5):
            await call.write(rerank_service_pb2.BatchRerankRequest(item_id=str(i), request=request(1, "points")))
            await asyncio.sleep(0.02)
        answers = [(await call.read()).item_id for _ in range(4)]
        assert answers == ["1", "2", "3", "4"]
        call.cancel()
        await gone(podium)
