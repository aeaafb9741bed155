"""results.json is read back to what was written, and nothing else is taken for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_evals.evaluate import evaluate
from podium_evals.results import Missing, Ranking, Reference, Results, Spent, System, Timing, first_stage
from podium_evals.results_file import ResultsError, as_data, from_data, read, write, write_run
from podium_evals.suite import Passage, Suite, Topic, checked, read_run

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)
amounts = st.integers(0, 10**9)
spent = st.builds(
    Spent,
    calls=amounts,
    prompt_tokens=amounts,
    cost_usd=st.none() | st.floats(0, 100),
    wall_s=st.floats(0, 100),
)


@st.composite
def results(draw: st.DrawFn) -> Results:
    topics = []
    qrels = {}
    for qid in range(draw(st.integers(1, 4))):
        docids = [f"d{place}" for place in range(draw(st.integers(1, 5)))]
        scores = draw(st.none() | st.floats(-5, 5))
        topics.append(Topic(str(qid), draw(words), tuple(Passage(docid, draw(words), scores) for docid in docids)))
        qrels[str(qid)] = {docid: draw(st.integers(0, 3)) for docid in docids} | {"elsewhere": 1}
    suite = checked(Suite(draw(words) or "s", tuple(topics), qrels))
    rankings = tuple(
        Ranking(
            topic.qid,
            tuple(passage.docid for passage in reversed(topic.candidates)),
            tuple(draw(st.none() | st.floats(-5, 5)) for _ in topic.candidates),
            spent=draw(spent),
        )
        for topic in topics
    )
    system = System("mine", draw(words), (draw(words),), rankings, (draw(words),))
    references = (Reference("known", "nDCG@10", 0.5, draw(words)),)
    return Results(
        (evaluate(suite, [first_stage(suite), system], references=references),),
        made={"command": draw(words)},
        sections={"peers": {"rows": [1, None, draw(words)]}},
        missing=(Missing("simulated", draw(words)),),
        timings=(Timing("all", 1.5),),
    )


@settings(max_examples=25, deadline=None)
@given(results())
def test_what_was_written_is_read(value: Results) -> None:
    data = json.loads(json.dumps(as_data(value), allow_nan=False))
    back = from_data(data)
    assert as_data(back) == data
    (one,), (other,) = value.evaluations, back.evaluations
    assert (one.systems, one.summaries, one.differences) == (other.systems, other.summaries, other.differences)
    assert (one.suite.topics, one.suite.qrels, one.qids) == (other.suite.topics, other.suite.qrels, other.qids)


def small() -> Results:
    suite = checked(Suite("s", (Topic("1", "q", (Passage("a", "x"), Passage("b", "x"))),), {"1": {"a": 1}}))
    return Results((evaluate(suite, [first_stage(suite)]),))


def test_a_text_stands_in_the_file_once() -> None:
    assert as_data(small())["evaluations"][0]["suite"]["texts"] == ["x"]


def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    write(small(), tmp_path / "results.json")
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert read(tmp_path / "results.json").main == "nDCG@10"


def test_a_score_that_is_no_number_is_no_score() -> None:
    suite = small().evaluations[0].suite
    ranking = Ranking("1", ("a", "b"), (float("nan"), float("inf")))
    data = as_data(Results((evaluate(suite, [first_stage(suite), System("odd", "", (), (ranking,))]),)))
    assert data["evaluations"][0]["systems"][1]["rankings"][0]["scores"] == [None, None]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ("[]", "its format is None"),
        ('{"format": "podium-evaluation/99"}', "'podium-evaluation/99'; 'podium-evaluation/1' is read here"),
        ('{"format": "podium-evaluation/1"}', "is broken"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ResultsError, match=said):
        read(tmp_path / "results.json")


def test_a_run_file_keeps_the_order_through_trec_evals_sorting(tmp_path: Path) -> None:
    docids = tuple(f"d{number}" for number in range(120))
    system = System("mine", "", (), (Ranking("1", docids, tuple(0.0 for _ in docids)),))
    write_run(system, tmp_path / "mine.trec")
    assert tuple(docid for docid, _ in read_run(tmp_path / "mine.trec")["1"]) == docids


def test_an_id_that_a_run_cannot_hold_is_refused(tmp_path: Path) -> None:
    for docid in ("two words", "", "tab\tbed"):
        with pytest.raises(ResultsError, match="cannot stand in a TREC run"):
            write_run(System("mine", "", (), (Ranking("1", (docid,)),)), tmp_path / "mine.trec")
    write_run(System("a name (with words)", "", (), (Ranking("1", ("a",)),)), tmp_path / "mine.trec")
    assert [docid for docid, _ in read_run(tmp_path / "mine.trec")["1"]] == ["a"]
