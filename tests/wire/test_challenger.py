"""Challengers on live requests, over real sockets: what the caller gets, what the log says, who pays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

from podium.v1 import ranking_pb2, rerank_service_pb2, search_service_pb2
from podium_server.accounting.prices import Prices
from podium_server.accounting.usage import Usage
from podium_server.config import ChallengerSection
from podium_server.errors import BackendDown, FailedPrecondition
from podium_server.limits import Limits
from podium_server.ranking.assignment import Arm, assigned, team_draft
from podium_server.ranking.challenger import Experiments
from podium_server.ranking.ranking_log import RankingLog
from podium_server.ranking.searcher import EncoderOf, Searcher
from podium_server.recall.retriever import Found, Hit, Recalled, RecallQuery, Timings
from podium_strategies.oracle import Oracle
from tests.ranking.scripted import ScriptedJudge
from tests.wire.serving import Standing, ids, refused, request, serving, standing, until

N = 6
JUDGE = Oracle.seeded(16, 1)


def challenged(
    path: Path, judge: Any = None, limits: Limits | None = None, logs: float = 0.0, **section: Any
) -> Standing:
    """Return a Podium whose default pipeline, `identity`, has `window` as its challenger."""
    podium = standing(judge or ScriptedJudge(JUDGE), limits)
    given = ChallengerSection(**({"pipeline": "window", "share": 1.0} | section))
    log = RankingLog(path, file_bytes=1 << 20, files=2, queue_entries=1000)
    podium.reranker.experiments = Experiments({"identity": given}, log, podium.limits, share=logs)
    return podium


def experiments(podium: Standing) -> Experiments:
    assert podium.reranker.experiments is not None
    return podium.reranker.experiments


async def logged(podium: Standing) -> list[dict[str, Any]]:
    """Return what the log says once everything is over."""
    await experiments(podium).aclose()
    path = experiments(podium).log.path
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


async def alone(pipeline: str) -> rerank_service_pb2.RerankResponse:
    """Return what a pipeline answers where there is no experiment."""
    async with serving(standing(ScriptedJudge(JUDGE))) as stubs:
        return await stubs.rerank.Rerank(request(N, pipeline))


def untimed(response: rerank_service_pb2.RerankResponse) -> rerank_service_pb2.RerankResponse:
    """Return a response without its times."""
    copy = rerank_service_pb2.RerankResponse()
    copy.CopyFrom(response)
    for usage in (copy.ledger.total, *(stage.usage for stage in copy.ledger.stages)):
        for time in ("queue_time", "tokenize_time", "backend_time", "critical_path", "wall_time"):
            usage.ClearField(time)
    return copy


# --- served -----------------------------------------------------------------------------------------------------


async def test_a_served_challenger_answers_its_share_and_says_so(tmp_path: Path) -> None:
    podium = challenged(tmp_path / "log", mode="served", key="metadata:x-user-id", share=0.5, experiment="e")
    window, identity = await alone("window"), await alone("identity")
    users = [f"u{number}" for number in range(12)]
    async with serving(podium) as stubs:
        for user in (*users, *users):  # twice: who is on a side stays there
            response = await stubs.rerank.Rerank(request(N), metadata=[("x-user-id", user)])
            expected = window if assigned("e", user, 0.5) else identity
            assert untimed(response) == untimed(expected)
            assert response.pipeline == ("window" if assigned("e", user, 0.5) else "identity")
    lines = await logged(podium)
    assert len(lines) == 24
    assert {line["arm"] for line in lines} == {"incumbent", "challenger"}
    assert len({line["key"] for line in lines}) == 12
    assert all(list(line["rankings"]) == [line["arm"]] and line["shown"] == line["arm"] for line in lines)
    text = (tmp_path / "log").read_text("utf-8")
    assert "text 0" not in text
    assert not any(f'"{user}"' in text for user in users)


async def test_a_request_without_the_key_is_in_no_experiment(tmp_path: Path) -> None:
    podium = challenged(tmp_path / "log", mode="served", key="metadata:x-user-id")
    async with serving(podium) as stubs:
        assert (await stubs.rerank.Rerank(request(N))).pipeline == "identity"
    assert experiments(podium).counts == {"no_key": 1}
    assert await logged(podium) == []


async def test_only_live_requests_for_the_pipeline_itself_are_in_it(tmp_path: Path) -> None:
    podium = challenged(tmp_path / "log", mode="served")
    async with serving(podium) as stubs:
        assert (await stubs.rerank.Rerank(request(N, "points"))).pipeline == "points"
        inline = request(N)
        inline.inline.stages.add(strategy="first-stage")
        assert not (await stubs.rerank.Rerank(inline)).pipeline
        compared = await stubs.rerank.Compare(
            rerank_service_pb2.CompareRequest(
                request=request(N), contenders=[rerank_service_pb2.Contender(pipeline="identity")]
            )
        )
        assert compared.rankings[0].response.pipeline == "identity"
        # A batch is live, item by item; a watched request, too.
        calls = stubs.rerank.BatchRerank()
        await calls.write(rerank_service_pb2.BatchRerankRequest(item_id="a", request=request(N)))
        await calls.done_writing()
        assert [each.response.pipeline async for each in calls] == ["window"]
        watched = stubs.rerank.StreamRerank(rerank_service_pb2.StreamRerankRequest(request=request(N)))
        assert [each.response.pipeline async for each in watched][-1] == "window"
    lines = await logged(podium)
    assert len(lines) == 2
    assert lines[0]["request_id"].endswith("/a")


async def test_a_served_challenger_s_error_is_the_caller_s_and_in_the_log(tmp_path: Path) -> None:
    judge = ScriptedJudge(JUDGE, fail_at={0: BackendDown("gone")})
    podium = challenged(tmp_path / "log", judge, mode="served")
    async with serving(podium) as stubs:
        assert (await refused(stubs.rerank.Rerank(request(N)))).code is grpc.StatusCode.UNAVAILABLE
    [line] = await logged(podium)
    assert (line["arm"], line["missing"], line["rankings"]) == ("challenger", {"challenger": "BACKEND_DOWN"}, {})


# --- shadow -----------------------------------------------------------------------------------------------------


async def test_a_shadow_changes_nothing_and_is_logged(tmp_path: Path) -> None:
    podium = challenged(tmp_path / "log", mode="shadow")
    async with serving(podium) as stubs:
        response = await stubs.rerank.Rerank(request(N), metadata=[("x-request-id", "r1")])
        await until(lambda: experiments(podium).log.written == 1)
    assert untimed(response) == untimed(await alone("identity"))
    [line] = await logged(podium)
    assert (line["request_id"], line["shown"]) == ("r1", "incumbent")
    assert line["rankings"]["incumbent"]["ids"] == ids(response.ranking)
    assert line["rankings"]["challenger"]["ids"] == ids((await alone("window")).ranking)
    # Nobody's bill but its own.
    assert not response.ledger.total.calls
    assert experiments(podium).shadow_spent.calls == line["rankings"]["challenger"]["calls"] > 0


@pytest.mark.parametrize("error", [BackendDown("gone"), FailedPrecondition("no"), ZeroDivisionError("a defect")])
async def test_a_shadow_that_fails_changes_nothing(tmp_path: Path, error: Exception) -> None:
    podium = challenged(tmp_path / "log", ScriptedJudge(JUDGE, fail_at={0: error}), mode="shadow")
    async with serving(podium) as stubs:
        response = await stubs.rerank.Rerank(request(N))
        assert untimed(response) == untimed(await alone("identity"))
        await until(lambda: experiments(podium).log.written == 1)
    [line] = await logged(podium)
    assert line["missing"] == {"challenger": getattr(error, "reason", "INTERNAL")}
    assert experiments(podium).counts["failed"] == 1
    assert experiments(podium).shadow_spent.calls == 1  # it was asked, and that is on its bill


async def test_a_shadow_that_hangs_holds_up_nobody_and_the_next_is_dropped(tmp_path: Path) -> None:
    hanging = ScriptedJudge(JUDGE, delay_s=lambda _: 3600)
    podium = challenged(tmp_path / "log", hanging, Limits(shadow_requests=2), mode="shadow")
    expected = untimed(await alone("identity"))
    async with serving(podium) as stubs:
        for _ in range(5):
            # The deadline would end a call that waits for its shadow.
            assert untimed(await stubs.rerank.Rerank(request(N), timeout=20)) == expected
        await until(lambda: len(hanging.asked) >= 2)
        assert experiments(podium).counts["shadow_busy"] == 3
        assert podium.reranker.running == 0  # a drain does not wait for shadows
    lines = await logged(podium)
    assert sorted(line["missing"]["challenger"] for line in lines) == ["busy"] * 3 + ["cancelled"] * 2
    assert hanging.cancelled == 2
    # Once, and on its own account.
    assert experiments(podium).shadow_spent.calls == 2
    assert podium.reranker.spent_on_cancelled.calls == 0


async def test_a_shadow_has_an_end(tmp_path: Path) -> None:
    slow = ScriptedJudge(JUDGE, delay_s=lambda number: 3600 if number else 0.0)
    podium = challenged(tmp_path / "log", slow, Limits(shadow_s=0.2), mode="shadow")
    async with serving(podium) as stubs:
        await stubs.rerank.Rerank(request(N))
        await until(lambda: experiments(podium).log.written == 1)
    [line] = await logged(podium)
    assert line["rankings"]["challenger"]["completion"] == "partial_deadline"


async def test_outside_the_share_nothing_runs(tmp_path: Path) -> None:
    podium = challenged(tmp_path / "log", mode="shadow", share=1e-9)
    async with serving(podium) as stubs:
        await stubs.rerank.Rerank(request(N))
    assert experiments(podium).counts == {"shadow.incumbent": 1}
    assert await logged(podium) == []


# --- interleaved ------------------------------------------------------------------------------------------------


async def test_an_interleaved_answer_is_a_draft_of_both_orders(tmp_path: Path) -> None:
    podium = challenged(tmp_path / "log", mode="interleaved", experiment="e")
    async with serving(podium) as stubs:
        response = await stubs.rerank.Rerank(request(N), metadata=[("x-request-id", "r1")])
    window = await alone("window")
    orders = tuple(range(N)), tuple(ranked.input_index for ranked in window.ranking)
    order, teams = team_draft(*orders, "e", "r1")
    assert tuple(ranked.input_index for ranked in response.ranking) == order
    assert all(ranked.score_kind == ranking_pb2.SCORE_KIND_NONE for ranked in response.ranking)
    # Each document came to its place as its captain says: the incumbent asks nobody.
    scored = [ranked.provenance == ranking_pb2.PROVENANCE_SCORED for ranked in response.ranking]
    assert scored == [team is Arm.CHALLENGER for team in teams]
    assert response.pipeline == "identity+window"
    assert [stage.stage for stage in response.ledger.stages] == ["first-stage", "window:sliding-window"]
    assert response.ledger.total.calls == window.ledger.total.calls  # both are on the bill
    [line] = await logged(podium)
    assert line["interleaved"] == ids(response.ranking)
    assert line["teams"] == "".join("C" if team is Arm.CHALLENGER else "I" for team in teams)
    assert set(line["rankings"]) == {"incumbent", "challenger"}


@pytest.mark.parametrize(("fails", "why"), [({0: BackendDown("gone")}, "BACKEND_DOWN"), ({}, "late")])
async def test_a_challenger_that_fails_or_is_late_is_left_out_with_a_warning(
    tmp_path: Path, fails: Mapping[int, Exception], why: str
) -> None:
    judge = ScriptedJudge(JUDGE, fail_at=fails, delay_s=lambda _: 0.0 if fails else 3600)
    podium = challenged(tmp_path / "log", judge, mode="interleaved", patience_s=0.05)
    async with serving(podium) as stubs:
        response = await stubs.rerank.Rerank(request(N))
    assert ids(response.ranking) == ids((await alone("identity")).ranking)
    assert response.pipeline == "identity"
    [warning] = response.warnings
    assert warning.code == ranking_pb2.WARNING_CODE_STAGE_SKIPPED
    assert why in warning.message
    assert response.ledger.total.calls == 1  # what it was asked is paid
    assert podium.reranker.spent_on_cancelled.calls == 0  # and once
    [line] = await logged(podium)
    assert (line["shown"], line["missing"]) == ("incumbent", {"challenger": why})


async def test_an_incumbent_that_fails_stops_its_challenger(tmp_path: Path) -> None:
    # Question 0 is the incumbent's, which fails while the challenger's hangs.
    judge = ScriptedJudge(JUDGE, delay_s=lambda number: 3600 if number else 0.1, fail_at={0: BackendDown("gone")})
    podium = challenged(tmp_path / "log", judge, mode="interleaved")
    experiments(podium).challengers = {"window": ChallengerSection(pipeline="window", mode="interleaved", share=1)}
    async with serving(podium) as stubs:
        failed = await refused(stubs.rerank.Rerank(request(4, "window")))
        assert failed.code is grpc.StatusCode.UNAVAILABLE
    assert judge.cancelled == 1
    assert failed.ledger.total.calls == 2
    assert podium.reranker.spent_on_cancelled.calls == 0
    assert podium.reranker.running == 0


async def test_a_caller_who_leaves_takes_both_along(tmp_path: Path) -> None:
    judge = ScriptedJudge(JUDGE, delay_s=lambda _: 3600)
    podium = challenged(tmp_path / "log", judge, mode="interleaved")
    experiments(podium).challengers = {"window": ChallengerSection(pipeline="points", mode="interleaved", share=1)}
    async with serving(podium) as stubs:
        call = asyncio.ensure_future(stubs.rerank.Rerank(request(4, "window"), timeout=30))
        await until(lambda: len(judge.asked) == 5)  # a window, and four points
        call.cancel()
        await until(lambda: judge.cancelled == 5)
        await until(lambda: podium.reranker.running == 0)
        assert podium.reranker.spent_on_cancelled.calls == 5, "nobody reads either of their ledgers"


async def test_a_caller_who_leaves_while_only_the_challenger_is_at_work_has_spent_both(tmp_path: Path) -> None:
    judge = ScriptedJudge(JUDGE, delay_s=lambda number: 3600 if number else 0.0)
    podium = challenged(tmp_path / "log", judge, mode="interleaved")
    given = ChallengerSection(pipeline="points", mode="interleaved", share=1, patience_s=30)
    experiments(podium).challengers = {"window": given}
    async with serving(podium) as stubs:
        call = asyncio.ensure_future(stubs.rerank.Rerank(request(4, "window"), timeout=30))
        await until(lambda: len(judge.asked) == 5)
        await asyncio.sleep(0.1)  # the incumbent has its one answer
        call.cancel()
        await until(lambda: judge.cancelled == 4)
        await until(lambda: podium.reranker.running == 0)
        assert podium.reranker.spent_on_cancelled.calls == 5


async def test_a_request_with_a_counted_budget_is_not_interleaved(tmp_path: Path) -> None:
    podium = challenged(tmp_path / "log", mode="interleaved")
    async with serving(podium) as stubs:
        given = request(N)
        given.budget.max_calls = 100
        assert (await stubs.rerank.Rerank(given)).pipeline == "identity"
    assert experiments(podium).counts == {"budget": 1}


# --- a search ---------------------------------------------------------------------------------------------------


class Shelf:
    """A retriever that finds the same documents for every query."""

    async def retrieve(self, query: RecallQuery) -> Recalled:
        hits = [Hit(f"d{i}", 1.0 - i / 10, f"text {i}", i, 0, 0, 6, {}, (Found("bm25", i + 1, 1.0),)) for i in range(N)]
        return Recalled(tuple(hits), Timings(encode_s=0.001), Usage(calls=1, prompt_tokens=3))


async def _encoder_of(_collection: str) -> EncoderOf:
    return EncoderOf("minilm", "1", Prices(), True)


@pytest.mark.parametrize("mode", ["served", "shadow", "interleaved"])
async def test_a_search_is_live_and_its_recall_is_charged_once(tmp_path: Path, mode: str) -> None:
    podium = challenged(tmp_path / "log", mode=mode)
    podium.searcher, podium.collections = Searcher(Shelf(), podium.reranker, _encoder_of), object()
    async with serving(podium) as stubs:
        response = await stubs.search.Search(search_service_pb2.SearchRequest(collection="c", query="q"))
        await until(lambda: experiments(podium).log.written == 1)
    shown = {"served": "window", "shadow": "identity", "interleaved": "identity+window"}
    assert response.pipeline == shown[mode]
    assert [stage.stage for stage in response.ledger.stages].count("recall") == 1
    [line] = await logged(podium)
    for ranking in line["rankings"].values():
        assert ranking["calls"] == {"identity": 0, "window": 2}[ranking["pipeline"]]  # recall's call is nobody's


# --- the log of everything else ---------------------------------------------------------------------------------


async def test_a_share_of_the_other_requests_is_logged(tmp_path: Path) -> None:
    podium = challenged(tmp_path / "log", logs=1.0)
    experiments(podium).challengers = {}
    async with serving(podium) as stubs:
        response = await stubs.rerank.Rerank(request(N, "points"))
    [line] = await logged(podium)
    assert (line["experiment"], line["arm"], line["shown"]) == ("", "", "incumbent")
    assert line["rankings"]["incumbent"]["places"] == [ranked.input_index for ranked in response.ranking]
    assert line["rankings"]["incumbent"]["scores"] == [ranked.score for ranked in response.ranking]
