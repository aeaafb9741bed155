"""Judgments: both ways of writing them, one rule for what is below 0, and clear words about what is none."""

from __future__ import annotations

import gzip
from pathlib import Path

import ir_measures
import pytest
from ir_measures import Judged, nDCG

from podium_server.errors import InvalidRequest
from podium_server.jobs.ndcg import ndcg
from podium_server.jobs.qrels import read_qrels
from podium_server.training.development import Judged as JudgedList
from podium_server.training.development import Measured

TREC = "q1 0 a 2\nq1 0 b 0\nq1 0 c -2\n\nq2 0 a 1.0\n"
BEIR = "query-id\tcorpus-id\tscore\nq1\ta\t2\nq1\tb\t0\nq1\tc\t-2\nq2\ta\t1\n"
WANTED = {"q1": {"a": 2.0, "b": 0.0, "c": -2.0}, "q2": {"a": 1.0}}


@pytest.mark.parametrize("text", [TREC, BEIR, TREC.replace("\n", "\r\n"), "\ufeff" + TREC, TREC + "q1 0 a 2\n"])
def test_whoever_wrote_them(tmp_path: Path, text: str) -> None:
    (tmp_path / "qrels").write_bytes(text.encode())
    (tmp_path / "packed").write_bytes(gzip.compress(text.encode()))
    assert read_qrels(tmp_path / "qrels") == read_qrels(tmp_path / "packed") == WANTED


def test_below_nothing_is_judged_and_gains_nothing(tmp_path: Path) -> None:
    (tmp_path / "qrels").write_text(TREC)
    own = read_qrels(tmp_path / "qrels")["q1"]
    order = ["c", "b", "a", "unjudged"]
    run = {"q1": {docid: float(-place) for place, docid in enumerate(order)}}
    grades = {"q1": {docid: int(grade) for docid, grade in own.items()}}
    theirs = ir_measures.calc_aggregate([nDCG @ 10, Judged @ 10], grades, run)
    gains = tuple(own.get(docid, 0.0) for docid in order)
    trained = Measured("set", (JudgedList("q1", "q", tuple(order), gains, tuple(own.values())),))

    assert ndcg(gains, own.values(), 10) == pytest.approx(theirs[nDCG @ 10])
    assert trained.as_given() == {"q1": pytest.approx(theirs[nDCG @ 10])}
    assert len(own.keys() & set(order)) / len(order) == theirs[Judged @ 10]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("q1 0 a 1\nq1 a\n", "qrels, line 2: 2 columns"),
        ("q1 0 a much\n", "qrels, line 1: the grade is 'much'"),
        ("q1 0 a nan\n", "qrels, line 1: the grade is 'nan'"),
        ("q1 0 a 1\n\nq1 0 a 2\n", "qrels, line 3: query q1 has document a twice, with the grades 1 and 2"),
        ("", "qrels: has no judgments"),
        ("\u00a0\nq1 0 a 1\n", "qrels, line 1: 0 columns"),
    ],
)
def test_what_is_none_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "qrels").write_text(text)
    with pytest.raises(InvalidRequest, match=said):
        read_qrels(tmp_path / "qrels")


def test_what_is_no_text_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "qrels").write_bytes(b"q1 0 a 1\nq\xff 0 a 1\n")
    with pytest.raises(InvalidRequest, match=r"qrels, line 2: is no UTF-8 at byte 1"):
        read_qrels(tmp_path / "qrels")
