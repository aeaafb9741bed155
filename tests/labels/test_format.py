"""The line of a label file: what is written is what is read, and what is no label is refused by its place."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_server.errors import InvalidRequest
from podium_server.labels.format import (
    FORMAT,
    Label,
    LabelledDocument,
    Unlabelled,
    Verdict,
    error_record,
    parsed,
    read_labels,
    read_lines,
    record,
    written,
)
from tests.labels.made_up import UNHURRIED, labels


@UNHURRIED
@given(labels())
def test_what_is_written_is_what_is_read(label: Label) -> None:
    assert parsed(written(record(label))) == label


@UNHURRIED
@given(labels())
def test_without_texts_all_the_rest_is_there(label: Label) -> None:
    lean = replace(label, documents=tuple(replace(one, text=None) for one in label.documents))

    assert parsed(written(record(label, texts=False))) == lean


@UNHURRIED
@given(labels(min_size=1))
def test_a_later_minor_key_is_left_alone(label: Label) -> None:
    line = record(label) | {"new": 1}
    line["teacher"] = line["teacher"] | {"new": 1}
    line["candidates"] = [row | {"new": 1} for row in line["candidates"]]

    assert parsed(line) == label


@UNHURRIED
@given(st.binary(max_size=60) | st.text(max_size=60))
def test_anything_else_is_refused_and_nothing_else_happens(line: bytes | str) -> None:
    with pytest.raises(InvalidRequest, match="label"):
        parsed(line)


@UNHURRIED
@given(labels(min_size=2), st.data())
def test_a_line_that_lost_something_is_no_label(label: Label, data: st.DataObject) -> None:
    line = record(label)
    del line[data.draw(st.sampled_from(["qid", "query", "candidates", "ranking"]))]

    with pytest.raises(InvalidRequest, match="is missing"):
        parsed(line)


BROKEN = {
    "another version": ({"format": "podium-labels/2"}, "has format podium-labels/2"),
    "another thing": ({"format": "csv"}, "is no label"),
    "a docid twice": ({"candidates": [{"docid": 1}, {"docid": 1}]}, "twice"),
    "a stranger in the ranking": ({"ranking": ["a", "x"]}, "'x' is no docid"),
    "half a ranking": ({"ranking": ["a"]}, "no permutation of 2"),
    "too few scores": ({"scores": [1.0]}, "shorter"),
    "a sure thing that is surer": ({"pairs": [{"first": "a", "second": "b", "first_wins": 2}]}, "first_wins is 2"),
    "a match against oneself": ({"pairs": [{"first": "a", "second": "a", "first_wins": 1}]}, "two different ones"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_mistakes_are_told_with_file_and_line(tmp_path: Path, case: str) -> None:
    wrong, told = BROKEN[case]
    good = record(Label("q", "query", (LabelledDocument("a", ""), LabelledDocument("b", "")), (1, 0)))
    path = tmp_path / "labels.jsonl"
    path.write_text(f"{written(good)}\n\n{json.dumps(good | wrong)}\n")

    with pytest.raises(InvalidRequest, match=rf"labels\.jsonl, line 3.*{told}"):
        list(read_lines(path))


def test_plain_and_packed_and_what_has_no_label(tmp_path: Path) -> None:
    label = Label("q", "query", (LabelledDocument("a", "A"),), (0,))
    lines = f"{written(record(label))}\n{written(error_record(Unlabelled('p', 'BACKEND_DOWN', 'gone')))}\n"
    plain, packed = tmp_path / "a.jsonl", tmp_path / "b"
    plain.write_text(lines)
    packed.write_bytes(gzip.compress(lines.encode()))

    for path in (plain, packed):
        assert list(read_lines(path)) == [label, Unlabelled("p", "BACKEND_DOWN", "gone")]
        assert list(read_labels(path)) == [label]
    assert json.loads(lines.splitlines()[0])["format"] == FORMAT


def test_a_value_that_cannot_be_is_refused_where_it_is_made() -> None:
    with pytest.raises(ValueError, match="no permutation of 1"):
        Label("q", "", (LabelledDocument("a"),), (1,))
    with pytest.raises(ValueError, match="2 scores for 1"):
        Label("q", "", (LabelledDocument("a"),), (0,), (1.0, 2.0))
    with pytest.raises(ValueError, match="0 to 1"):
        Verdict(0, 1, float("nan"))
