"""Recorded rankers replayed: the right windows, the right number of malformed replies, the published nDCG."""

import ir_measures
import pytest
from ir_measures import nDCG

from podium_server.accounting.usage import Usage
from podium_server.judges.case import Candidate, Case
from podium_server.judges.chat.judge import ChatJudge
from podium_strategies.drive import Execution
from podium_strategies.listwise import SlidingWindow
from podium_strategies.plan import Order
from podium_strategies.pool import Pool
from podium_strategies.prompts import load
from podium_strategies.prompts.prompt import MALFORMED
from tests.data import data_dir, rows
from tests.judges.scripted_chat import Collected, ScriptedChat
from tests.prompts.recorded import RECORDINGS


@pytest.mark.parametrize("recording", RECORDINGS)
async def test_a_recorded_ranker_is_replayed_exactly(recording: str) -> None:
    name, malformed, published = RECORDINGS[recording]
    replies = {(row["qid"], *row["docids"]): row["reply"] for row in rows(f"recordings/{recording}_dl19_bm25.jsonl.gz")}
    asked: list[tuple[str, ...]] = []
    chat = ScriptedChat(lambda call: replies[asked[-1]], context_tokens=4096)
    judge = ChatJudge(chat, load(name))
    total = Usage()
    run = {}
    for row in rows("eval/dl19_bm25_top100.jsonl.gz"):
        candidates = tuple(Candidate(one["docid"], one["text"]) for one in row["candidates"])
        case = Case(row["query"], candidates)
        execution = Execution(SlidingWindow().plan(Pool(len(candidates))), len(candidates))
        while batch := execution.take():
            (window,) = batch
            (question,) = window.questions
            assert isinstance(question, Order)
            asked.append((row["qid"], *(candidates[item].id for item in question.candidates)))
            sink = Collected()
            await judge.rule(case, window.questions, sink)
            total = total + sink.usage
            execution.answer(window.id, 0, sink.rulings[0].answer)
        assert execution.result is not None
        run[row["qid"]] = {candidates[item].id: -float(rank) for rank, item in enumerate(execution.result.order)}
    assert total.calls == len(chat.calls) == 387
    assert set(asked) == set(replies)
    assert sum(total.repairs.get(repair.value, 0) for repair in MALFORMED) == malformed
    assert total.repairs["ok"] == 387 - malformed
    qrels = list(ir_measures.read_trec_qrels(str(data_dir() / "eval/qrels/dl19.txt")))  # type: ignore[no-untyped-call]
    measured = ir_measures.calc_aggregate([nDCG @ 10], qrels, run)[nDCG @ 10]
    assert round(measured, 4) == published
