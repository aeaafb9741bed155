"""Run files that somebody else made: measured as trec_eval does, refused where they cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_evals.evaluate import evaluate
from podium_evals.given_runs import judgments_alone, run_system
from podium_evals.suite import SuiteError


def files(folder: Path, run: str, qrels: str = "1 0 a 1\n1 0 b 0\n2 0 c 2\n") -> tuple[Path, Path]:
    (folder / "mine.trec").write_text(run)
    (folder / "qrels.txt").write_text(qrels)
    return folder / "mine.trec", folder / "qrels.txt"


def test_what_a_run_lacks_is_counted(tmp_path: Path) -> None:
    run, qrels = files(tmp_path, "1 Q0 a 1 2.0 x\n9 Q0 a 1 1 x\n")
    suite = judgments_alone(qrels)
    system = run_system(run, suite)
    assert system.name == "mine"
    assert any("ignored: 1 query (9) not in the suite" in warning for warning in system.warnings)
    assert any("not in the run: 1 query (2)" in warning for warning in system.warnings)
    found = evaluate(suite, [system], baseline="mine")
    assert found.summaries["mine"].means["RR@10"].value == 0.5
    assert found.summaries["mine"].failed == 1


def test_a_run_over_other_queries_is_refused(tmp_path: Path) -> None:
    run, qrels = files(tmp_path, "9 Q0 a 1 2.0 x\n")
    with pytest.raises(SuiteError, match=r"other queries: it has 1 query \(9\), and qrels has 2 queries \(1, 2\)"):
        run_system(run, judgments_alone(qrels))


def test_an_unjudged_run_is_refused(tmp_path: Path) -> None:
    run, qrels = files(tmp_path, "1 Q0 z 1 2.0 x\n2 Q0 y 1 2.0 x\n")
    with pytest.raises(SuiteError, match="is unjudged"):
        run_system(run, judgments_alone(qrels))


def test_judgments_are_a_suite_of_their_own(tmp_path: Path) -> None:
    _, qrels = files(tmp_path, "", "1 0 a 1\n2 0 b 0\n")
    suite = judgments_alone(qrels)
    assert [topic.qid for topic in suite.judged_topics] == ["1"]
    assert not any("candidates" in warning for warning in suite.warnings)
    assert any("1 query (2) without a relevant document" in warning for warning in suite.warnings)


tied = st.lists(
    st.tuples(st.sampled_from([f"doc{place}" for place in range(14)]), st.integers(0, 3)),
    min_size=3,
    max_size=14,
    unique_by=lambda pair: pair[0],
)


@settings(max_examples=60, deadline=None)
@given(tied, st.dictionaries(st.sampled_from([f"doc{place}" for place in range(14)]), st.integers(0, 3), min_size=1))
def test_ties_count_as_trec_eval_counts_them(
    tmp_path_factory: pytest.TempPathFactory, run: list[tuple[str, int]], judged: dict[str, int]
) -> None:
    if not any(judged.values()) or not any(docid in judged for docid, _ in run):
        return
    lines = "".join(f"1 Q0 {docid} {rank} {score} x\n" for rank, (docid, score) in enumerate(run, 1))
    qrels = "".join(f"1 0 {docid} {grade}\n" for docid, grade in judged.items())
    path, judgments = files(tmp_path_factory.mktemp("ties"), lines, qrels)
    suite = judgments_alone(judgments)
    found = evaluate(suite, [run_system(path, suite)], baseline="mine").summaries["mine"].means
    evaluator = pytrec_eval.RelevanceEvaluator({"1": judged}, {"ndcg_cut.10", "map", "P.10", "success.1"})
    theirs = evaluator.evaluate({"1": {docid: float(score) for docid, score in run}})["1"]
    for ours, name in (("nDCG@10", "ndcg_cut_10"), ("AP", "map"), ("P@10", "P_10"), ("Success@1", "success_1")):
        assert found[ours].value == pytest.approx(theirs[name])
