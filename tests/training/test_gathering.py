"""Data made ready: what is measured is never learnt, what is left out is said, what is missing is refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podium_server.errors import ConfigInvalid
from podium_server.labels.format import Label, LabelledDocument, Teacher, record
from podium_server.labels.format import written as line_of
from podium_server.training.development import of_collection
from podium_server.training.examples import folded, read
from podium_server.training.gathering import Gathered, Gathering
from podium_server.training.recipe import Development
from podium_server.training.recipe_file import parse
from tests.training.tiny import lists, pairs, written

BM25 = {"by": "bm25", "ranks": [1, 20]}


def gather(folder: Path, **recipe: Any) -> Gathered:
    return Gathering(parse(recipe, where="r.toml"), (folder,), folder / "cache").gather()


@given(st.integers(1, 12), st.integers(0, 5))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_query_that_is_measured_is_learnt(tmp_path: Path, held: int, seed: int) -> None:
    rows = lists(15, seed=seed)
    # The same question in other letters is the same question.
    copies = [{**row, "query": row["query"].upper() + " ?"} for row in rows[:6]]
    written(tmp_path / "a.jsonl", rows + copies)
    got = gather(
        tmp_path,
        data=[{"path": "a.jsonl"}],
        development=[{"path": "a.jsonl", "queries": held}],
        training={"seed": seed},
    )
    measured = {folded(each.query) for each in got.sets[0].lists}
    learnt = {folded(example.query) for example in got.streams[0].examples}
    assert not measured & learnt
    assert measured | learnt == {folded(row["query"]) for row in rows}
    assert len(got.sets[0].lists) == held
    assert any("a development list asks the same" in remark for remark in got.remarks)


def test_a_teacher_s_list_is_not_given_in_the_teacher_s_order(tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl", lists(30))
    got = gather(
        tmp_path, data=[{"path": "a.jsonl"}], development=[{"path": "a.jsonl", "queries": 10, "grades": [[2, 1]]}]
    )
    assert sum(got.sets[0].as_given().values()) / 10 < 0.9
    best = [list(each.gains) for each in got.sets[0].lists]
    assert got.sets[0].values(best) == {each.key: 1.0 for each in got.sets[0].lists}


def test_pairs_are_measured_among_their_negatives_with_all_their_positives(tmp_path: Path) -> None:
    rows = pairs(30)
    twice = [{**rows[0], "positive": "w1 w2 another right one"}]
    written(tmp_path / "a.jsonl", rows + twice)
    got = gather(
        tmp_path,
        data=[{"path": "a.jsonl", "negatives": BM25}],
        development=[{"path": "a.jsonl", "queries": 8, "negatives": {**BM25, "keep": 10}}],
    )
    known: dict[str, set[str]] = {}
    for row in rows + twice:
        known.setdefault(row["query"], set()).add(row["positive"])
    for judged in got.sets[0].lists:
        right = {text for text, gain in zip(judged.texts, judged.gains, strict=True) if gain > 0}
        assert right == known[judged.query]
        assert len(set(judged.texts)) == len(judged.texts)
    assert got.streams[0].data.losses == {"in-batch": 1.0}


def test_a_cross_encoder_learns_pairs_as_lists(tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl", pairs(30))
    got = gather(
        tmp_path,
        student={"kind": "cross-encoder"},
        data=[{"path": "a.jsonl", "negatives": {**BM25, "documents": 3}}],
        development=[{"path": "a.jsonl", "queries": 5, "negatives": BM25}],
    )
    assert got.streams[0].data.losses == {"kl": 1.0}
    assert all(2 <= len(drawn.texts) <= 4 for drawn in got.streams[0].of_step(0))


def test_sources_are_capped_by_name(tmp_path: Path) -> None:
    rows = [{**row, "source": "abc"[at % 3]} for at, row in enumerate(pairs(60))]
    written(tmp_path / "a.jsonl", rows)
    written(tmp_path / "d.jsonl", lists(3))
    got = gather(
        tmp_path,
        data=[{"path": "a.jsonl", "negatives": BM25, "most": {"a": 5, "b": 0, "*": 7}}],
        development=[{"path": "d.jsonl"}],
    )
    counts = {name: sum(example.source == name for example in got.streams[0].examples) for name in "abc"}
    assert counts == {"a": 5, "b": 0, "c": 7}


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"data": [{"path": "none.jsonl"}]}, "there is no file 'none.jsonl'"),
        ({"data": [{"path": "empty.jsonl"}]}, "'empty' has no usable row"),
        ({"data": [{"path": "bad.jsonl"}]}, "'bad' has no usable row: 2 × no JSON"),
        ({"data": [{"path": "lists.jsonl", "sources": ["x"]}]}, "no row is of the sources named"),
        ({"data": [{"path": "lists.jsonl", "loss": "in-batch"}]}, "loss 'in-batch' is for pairs; these are lists"),
        ({"data": [{"path": "lists.jsonl", "negatives": BM25}]}, "negatives are of pairs; these are lists"),
        (
            {"data": [{"path": "pairs.jsonl", "negatives": BM25, "target": {"label": 1.0}}]},
            "the loss 'in-batch' knows right and wrong alone",
        ),
        ({"data": [{"path": "lists.jsonl", "target": {"label": 4.0}}]}, "its target is the same for every document"),
        ({"data": [{"path": "bare.jsonl"}]}, "its target is the same for every document"),
        ({"data": [{"path": "alike.jsonl"}]}, "data 'alike' has nothing to learn from"),
        ({"development": [{"path": "alike.jsonl"}]}, "has no relevant document in any of its 1 lists"),
        ({"development": [{"path": "none", "format": "collection"}]}, "there is no folder 'none'"),
        ({"development": [{"path": "lists.jsonl"}] * 2}, "two [[development]] are called 'lists'"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, recipe: dict[str, Any], said: str) -> None:
    written(tmp_path / "lists.jsonl", lists(6))
    written(tmp_path / "pairs.jsonl", pairs(6))
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "bad.jsonl").write_text("{\n[\n")
    alike = {"query": "q", "candidates": [{"text": "a", "label": 0}, {"text": "b", "label": 0}]}
    written(tmp_path / "alike.jsonl", [alike])
    written(tmp_path / "bare.jsonl", [{"query": "q", "candidates": [{"text": "a"}, {"text": "b"}]}])
    whole = {"data": [{"path": "lists.jsonl"}], "development": [{"path": "lists.jsonl", "queries": 2}], **recipe}
    with pytest.raises(ConfigInvalid) as caught:
        gather(tmp_path, **whole)
    assert said in caught.value.message


def test_a_collection_becomes_bm25_s_lists_with_the_ideal_of_all_judgments(tmp_path: Path) -> None:
    rng = random.Random(0)
    corpus = [
        {"docid": f"d{i}", "title": "", "text": f"word{i % 7} " + " ".join(rng.sample(["x", "y", "z"], 2))}
        for i in range(40)
    ]
    written(tmp_path / "corpus.jsonl", corpus)
    written(tmp_path / "queries.jsonl", [{"qid": "q1", "query": "word3"}, {"qid": "q2", "query": "nothing alike"}])
    (tmp_path / "qrels.txt").write_text("q1 0 d3 2\nq1 0 d9999 1\nq2 0 d1 1\n")
    lists_of = of_collection(tmp_path, Development(path="x"), 0, lambda *_: None)
    one, nothing = lists_of
    assert len(one.texts) == sum(i % 7 == 3 for i in range(40))
    assert sorted(one.ideal) == [1.0, 2.0]
    assert sum(one.gains) == 2.0
    assert nothing.texts == ()
    (tmp_path / "qrels.txt").unlink()
    with pytest.raises(ConfigInvalid, match=r"exactly one file qrels\* is needed"):
        of_collection(tmp_path, Development(path="x"), 0, lambda *_: None)


def test_what_podium_label_writes_is_read(tmp_path: Path) -> None:
    label = Label(
        qid="q1",
        query="a question",
        documents=tuple(LabelledDocument(f"d{i}", f"text {i}") for i in range(3)),
        order=(2, 0, 1),
        scores=(0.5, 0.1, 0.9),
        score_kind="probability",
        teacher=Teacher("best"),
    )
    file = tmp_path / "labels.jsonl"
    file.write_text(line_of(record(label)))
    reading = read([file])
    assert not reading.left_out
    documents = reading.examples[0].documents
    assert [(d.docid, d.rank, d.score, d.text) for d in documents] == [
        ("d2", 1, 0.9, "text 2"),
        ("d0", 2, 0.5, "text 0"),
        ("d1", 3, 0.1, "text 1"),
    ]


def test_a_row_of_a_collection_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"docid": "d1", "text": "a word"}\n[]\n')
    written(tmp_path / "queries.jsonl", [{"qid": "q1", "query": "word"}])
    (tmp_path / "qrels.txt").write_text("q1 0 d1 1\n")
    with pytest.raises(ConfigInvalid, match=r"corpus\.jsonl, line 2: no JSON object"):
        of_collection(tmp_path, Development(path="x"), 0, lambda *_: None)


def test_a_long_positive_is_measured_once(tmp_path: Path) -> None:
    rows = [{**row, "positive": f"{row['positive']} {'and so on ' * 30}"} for row in pairs(30)]
    written(tmp_path / "a.jsonl", rows)
    negatives = {**BM25, "characters": 100}
    got = gather(
        tmp_path,
        data=[{"path": "a.jsonl", "negatives": negatives}],
        development=[{"path": "a.jsonl", "queries": 8, "negatives": negatives}],
    )
    for judged in got.sets[0].lists:
        assert sum(judged.gains) == 1
        assert all(len(text) <= 100 for text in judged.texts)
