"""Reading data: rows of every kind, broken rows, and files that are none."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podium_server.errors import ConfigInvalid
from podium_server.training.examples import folded, read

values = st.sampled_from(
    [
        None,
        True,
        0,
        1,
        -3,
        2,
        0.5,
        float("nan"),
        float("inf"),
        10**400,
        "",
        " ",
        "text",
        "\ud800",
        [],
        [1],
        {},
        {"text": "x"},
    ]
)
KEYS = [
    "query",
    "positive",
    "ranked",
    "unranked",
    "candidates",
    "ranking",
    "scores",
    "agreement",
    "error",
    "source",
    "qid",
]
OF_DOCUMENT = ["text", "docid", "teacher_rank", "human", "label", "rel", "teacher_score"]
documents = st.dictionaries(st.sampled_from(OF_DOCUMENT), values, max_size=6)
rows = st.dictionaries(st.sampled_from(KEYS), values | st.lists(documents, max_size=4), max_size=8)


def file_of(folder: Path, *given_rows: Any, packed: bool = False) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in given_rows)
    file = folder / "rows.jsonl"
    file.write_bytes(gzip.compress(text.encode("utf-8", "replace")) if packed else text.encode("utf-8", "replace"))
    return file


@given(st.lists(rows | values, max_size=6))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_rows_hold_every_one_is_an_example_or_counted(tmp_path: Path, given_rows: list[Any]) -> None:
    reading = read([file_of(tmp_path, *given_rows)])
    assert len(reading.examples) + sum(reading.left_out.values()) == sum(row not in ("", " ") for row in given_rows)
    for example in reading.examples:
        assert example.query.strip()
        assert example.documents
        assert all(document.text.strip() for document in example.documents)
        ranks = [document.rank for document in example.documents]
        if all(rank is not None for rank in ranks):
            assert ranks == sorted(ranks)  # type: ignore[type-var]


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_bytes_a_file_holds_it_is_read_or_refused(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "bytes.jsonl"
    file.write_bytes(raw)
    try:
        read([file])
    except ConfigInvalid as refused:
        assert str(file) in refused.message  # noqa: PT017  # it may as well be read


def test_each_kind_is_known_by_its_keys(tmp_path: Path) -> None:
    texts = [{"docid": "a", "text": "x"}, {"docid": "b", "text": "y"}]
    file = file_of(
        tmp_path,
        {"source": "s", "query": "q", "positive": "p"},
        {"qid": "1", "query": "q", "candidates": [{**texts[0], "label": 0}, {**texts[1], "rel": 2}]},
        {
            "query": "q",
            "ranked": [{**texts[0], "teacher_rank": 2, "human": 3}, {**texts[1], "teacher_rank": 1}],
            "unranked": [{"text": "z", "human": None}, {"text": "good", "human": 2}],
        },
        {"query": "q", "candidates": texts, "ranking": ["b", "a"], "scores": [0.9, 0.1]},
        packed=True,
    )
    pair, graded, teacher, labelled = read([file]).examples
    assert (pair.source, pair.documents[0].label) == ("s", 1.0)
    assert [document.label for document in graded.documents] == [0.0, 2.0]
    assert graded.qid == "1"
    assert [(d.text, d.rank, d.human) for d in teacher.documents] == [("y", 1, None), ("x", 2, 3.0)]
    assert teacher.others == ("z",)
    assert [(d.text, d.rank, d.score) for d in labelled.documents] == [("y", 1, 0.9), ("x", 2, 0.1)]


def test_sources_and_agreement_choose_rows(tmp_path: Path) -> None:
    row = {"query": "q", "candidates": [{"text": "x"}, {"text": "y"}]}
    file = file_of(
        tmp_path,
        {**row, "source": "a1", "agreement": {"kendall_tau": 0.9}},
        {**row, "source": "a2", "agreement": {"kendall_tau": 0.2}},
        {**row, "source": "b"},
    )
    reading = read([file], sources=["a"], min_agreement=0.5)
    assert [example.source for example in reading.examples] == ["a1"]
    assert reading.left_out == {"agreement below 0.5": 1}
    # Nobody knows whether the teacher contradicts itself on b, and that was asked for.
    assert read([file], min_agreement=0.5).left_out == {
        "agreement below 0.5": 1,
        "no agreement (podium label --shuffles), and min_agreement is set": 1,
    }
    assert len(read([file]).examples) == 3


def test_a_row_that_is_left_out_is_counted_with_the_first_place(tmp_path: Path) -> None:
    file = file_of(tmp_path, "{", {"query": "", "positive": "p"}, {"query": "q", "positive": "p"}, {"a": 1}, "{")
    reading = read([file])
    assert len(reading.examples) == 1
    assert reading.left_out["no JSON"] == 2
    assert reading.first_bad.endswith("line 1: no JSON")


def test_a_gzip_that_breaks_off_is_refused(tmp_path: Path) -> None:
    file = file_of(tmp_path, *[{"query": "q", "positive": f"p{i} " * 50} for i in range(300)], packed=True)
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ConfigInvalid, match=r"line [0-9]+: the file cannot be read on"):
        read([file])


@given(st.text())
def test_a_query_is_compared_without_case_and_punctuation(text: str) -> None:
    assert folded(text) == folded(f"  {text}?! ")
    assert folded(folded(text)) == folded(text)
