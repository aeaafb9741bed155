"""Suites are read whole or refused with the line, and what is odd about one is counted."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from podium_evals.first_stage import with_lists
from podium_evals.online.traffic import lines_of
from podium_evals.replay import DATA
from podium_evals.suite import SuiteError, limited, read_qrels, read_run, read_suite

NEEDS_DATA = pytest.mark.skipif(not (DATA / "eval").exists(), reason="needs ../shared/data")


def lists(folder: Path, *rows: dict[str, Any], name: str = "lists.jsonl") -> Path:
    file = folder / name
    text = "".join(json.dumps(row) + "\n" for row in rows)
    file.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return file


def row(qid: str, *docids: str, **more: Any) -> dict[str, Any]:
    given = [{"docid": docid, "text": f"text of {docid}", **more} for docid in docids]
    return {"qid": qid, "query": f"query {qid}", "candidates": given}


def qrels(folder: Path, text: str, name: str = "qrels.txt") -> Path:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


@pytest.mark.parametrize("name", ["lists.jsonl", "lists.jsonl.gz"])
def test_a_folder_of_lists_takes_the_judgments_beside_them(tmp_path: Path, name: str) -> None:
    lists(tmp_path, row("1", "a", "b", score=2.0), name=name)
    qrels(tmp_path, "1 0 b 2\n1 0 z 1\n")
    suite = read_suite(tmp_path)
    assert suite.name == tmp_path.name
    assert [passage.docid for passage in suite.topics[0].candidates] == ["a", "b"]
    assert suite.qrels == {"1": {"b": 2, "z": 1}}
    assert suite.warnings == ()


def test_lists_judge_themselves_where_no_qrels_are_given_and_say_so(tmp_path: Path) -> None:
    suite = read_suite(lists(tmp_path, row("1", "a", rel=1)))
    assert suite.qrels == {"1": {"a": 1}}
    assert "the lists' own" in suite.warnings[0]


def test_an_unjudged_candidate_is_not_a_zero(tmp_path: Path) -> None:
    given = row("1", "a", "b", rel=1)
    given["candidates"][1].update(rel=0, judged=False)
    assert read_suite(lists(tmp_path, given)).qrels == {"1": {"a": 1}}


@pytest.mark.parametrize("heading", ["", "query-id\tcorpus-id\tscore\n"])
def test_a_beir_folder_is_a_corpus_with_queries_that_are_judged(tmp_path: Path, heading: str) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d", "title": "T", "text": "body"}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "1", "text": "q"}\n{"_id": "2", "text": "of another split"}\n')
    qrels(tmp_path, heading + "1\td\t1\n", "qrels/test.tsv")
    suite = read_suite(tmp_path)
    assert suite.corpus == {"d": "T. body"}
    assert [(topic.qid, topic.candidates) for topic in suite.topics] == [("1", ())]


def test_a_trec_folder_with_a_run_has_its_lists(tmp_path: Path) -> None:
    (tmp_path / "collection.tsv").write_text("d1\tone\nd2\ttwo\n")
    (tmp_path / "queries.tsv").write_text("1\tq\n")
    (tmp_path / "bm25.run").write_text("1 Q0 d1 1 3.5 x\n1 Q0 d2 2 4.5 x\n9 Q0 d1 1 1 x\n")
    qrels(tmp_path, "1 0 d1 1\n")
    suite = read_suite(tmp_path)
    assert [passage.docid for passage in suite.topics[0].candidates] == ["d2", "d1"]
    assert any("not in the suite" in warning for warning in suite.warnings)


def test_ties_of_a_run_are_broken_as_trec_eval_does(tmp_path: Path) -> None:
    file = tmp_path / "run"
    file.write_text("1 Q0 a 1 1 x\n1 Q0 c 2 1 x\n1 Q0 b 3 1 x\n")
    assert [docid for docid, _ in read_run(file)["1"]] == ["c", "b", "a"]


def test_what_is_odd_is_counted(tmp_path: Path) -> None:
    file = lists(tmp_path, row("1", "a"), row("2", "a"), row("3", "a"), row("4"), row("5", "b"))
    suite = read_suite(file, qrels=qrels(tmp_path, "1 0 a 1\n3 0 a 0\n4 0 a 1\n5 0 a 1\n"))
    text = "\n".join(suite.warnings)
    for expected in (
        "1 query (2) without judgments",
        "1 query (3) without a relevant document",
        "1 query (4) without candidates",
        "1 query (5) of whose candidates none is judged",
    ):
        assert expected in text
    assert [topic.qid for topic in suite.judged_topics] == ["1", "4", "5"]


def test_a_file_that_is_damaged_in_its_middle_is_refused(tmp_path: Path) -> None:
    file = lists(tmp_path, *(row(str(number), "a", "b", rel=1) for number in range(500)), name="lists.jsonl.gz")
    whole = bytearray(file.read_bytes())
    whole[10:20] = b"\xff" * 10  # behind the header, a kind of block that there is not
    for damaged in (bytes(whole), file.read_bytes()[:-20]):
        file.write_bytes(damaged)
        with pytest.raises(SuiteError, match="cannot be read"):
            read_suite(file)
        with pytest.raises(SuiteError, match="cannot be read"):
            list(lines_of(file))


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    good = qrels(tmp_path, "1 0 a 1\n")

    def refused(*rows: dict[str, Any], by: str, judged: Path | None = good) -> None:
        with pytest.raises(SuiteError, match=by):
            read_suite(lists(tmp_path, *rows), qrels=judged)

    refused(row("1", "a"), row("1", "b"), by="query id .1. more than once")
    refused(row("1", "a", "a"), by="candidate .a. more than once")
    refused(row("1", "a\ud800", rel=1), by="no text of Unicode")
    refused(row("1", "a\0", rel=1), by="no text of Unicode")
    refused(row("2", "a"), by="none of its 1 queries has a judgment")
    refused(row("1", "a", score=float("nan")), by="no number")
    refused(row("1", "a"), judged=None, by="no qrels were given")
    refused(row("1", "a", rel=0.5), judged=None, by="line 1: document a: the grade is 0.5")
    refused(row("1", "a", rel="high"), judged=None, by="line 1: document a: the grade is 'high'")
    refused({"qid": "1"}, by="line 1: is no list")
    refused(by="no queries")
    with pytest.raises(SuiteError, match="no such file"):
        read_suite(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SuiteError, match="lacks a corpus"):
        read_suite(tmp_path / "empty")


@pytest.mark.parametrize("line", ["1 0 a", "1 Q0 a 1 nan x", "1 Q0 a 1 one x", "1 Q0 a 1 2 x\n1 Q0 a 2 1 x"])
def test_a_broken_run_is_refused_with_the_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "run"
    file.write_text(line)
    with pytest.raises(SuiteError, match=r"line [12]"):
        read_run(file)


def test_what_is_odd_about_a_corpus_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "cats"}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "1", "text": "cats"}\n{"_id": "2", "text": "cats"}\n')
    qrels(tmp_path, "1 0 a 1\n2 0 a 0\n")
    suite = with_lists(read_suite(tmp_path))
    assert sum("without a relevant document" in warning for warning in suite.warnings) == 1


@pytest.mark.parametrize("text", ["", "1 0\n", "1 0 a much\n", "1 0 a 0.5\n"])
def test_broken_judgments_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SuiteError):
        read_qrels(qrels(tmp_path, text))


@NEEDS_DATA
def test_the_corpus_of_nfcorpus() -> None:
    suite = read_suite(DATA / "eval" / "nfcorpus")
    assert (len(suite.topics), len(suite.corpus), suite.warnings) == (324, 3633, ())


def a_collection(folder: Path) -> Path:
    (folder / "corpus.jsonl").write_text('{"_id": "d", "text": "body"}\n')
    (folder / "queries.tsv").write_text("1\tq\n")
    qrels(folder, "1 0 d 1\n")
    return folder


def test_a_first_stage_over_other_queries_is_refused(tmp_path: Path) -> None:
    (a_collection(tmp_path) / "bm25.run").write_text("9 Q0 d 1 1 x\n")
    with pytest.raises(SuiteError, match="is a run over other queries: none of its 1"):
        read_suite(tmp_path)


def test_a_first_stage_over_another_corpus_is_refused(tmp_path: Path) -> None:
    (a_collection(tmp_path) / "bm25.run").write_text("1 Q0 elsewhere 1 1 x\n")
    with pytest.raises(SuiteError, match="1 document \\(elsewhere\\) not in the corpus"):
        read_suite(tmp_path)


def test_several_judgments_are_not_guessed_among(tmp_path: Path) -> None:
    a_collection(tmp_path)
    other = qrels(tmp_path, "1 0 d 2\n", "qrels_dev.txt")
    (tmp_path / "qrels.txt").rename(tmp_path / "qrels_test.txt")
    with pytest.raises(SuiteError, match="several would do"):
        read_suite(tmp_path)
    assert read_suite(tmp_path, qrels=other).qrels == {"1": {"d": 2}}


def test_the_first_queries_keep_their_judgments_and_say_so(tmp_path: Path) -> None:
    suite = read_suite(lists(tmp_path, *(row(str(number), "a", rel=1) for number in range(5))))
    some = limited(suite, 2)
    assert [topic.qid for topic in some.topics] == list(some.qrels) == ["0", "1"]
    assert "the first 2 of 5 judged queries" in some.warnings
    assert limited(suite, None) is limited(suite, 5) is suite


def test_ir_datasets_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    text = SimpleNamespace(default_text=lambda: "text")
    dataset = SimpleNamespace(
        qrels_iter=lambda: [SimpleNamespace(query_id="1", doc_id="d", relevance=1)],
        queries_iter=lambda: [SimpleNamespace(query_id=qid, **vars(text)) for qid in ("1", "unjudged")],
        docs_iter=lambda: [SimpleNamespace(doc_id="d", **vars(text))],
    )

    def load(name: str) -> object:
        if name != "beir/tiny":
            raise OSError("no network")
        return dataset

    monkeypatch.setitem(sys.modules, "ir_datasets", SimpleNamespace(load=load))
    suite = read_suite("ir_datasets:beir/tiny")
    assert (suite.name, suite.qrels, len(suite.corpus)) == ("beir-tiny", {"1": {"d": 1}}, 1)
    with pytest.raises(SuiteError, match="ir_datasets:other: cannot be loaded: no network"):
        read_suite("ir_datasets:other")
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(SuiteError, match="pip install ir_datasets"):
        read_suite("ir_datasets:beir/tiny")
