"""Exports: what a trainer reads says what the teacher said, and whatever was left out is counted."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import ir_measures
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_server.errors import FailedPrecondition, InvalidRequest
from podium_server.labels.agreement import agreement
from podium_server.labels.conversations import STYLES, Windows, conversations
from podium_server.labels.examples import (
    Selection,
    Skipped,
    Valuation,
    grade_of_rank,
    grade_of_score,
    listwise,
    pointwise,
    qrels,
    spread,
    triplets,
    verdict_triplets,
)
from podium_server.labels.export import Recipe, export
from podium_server.labels.format import (
    Label,
    LabelledDocument,
    Unlabelled,
    Verdict,
    error_record,
    read_labels,
    record,
    written,
)
from podium_strategies import prompts
from podium_strategies.permutation import is_permutation
from podium_strategies.prompts.prompt import Repair, Sheet
from tests.labels.conftest import Podium, read_rows
from tests.labels.made_up import UNHURRIED, labels

ALL = Selection()
LISTWISE = ("rank-zephyr", "rank-zephyr/2", "rank-vicuna", "rank-gpt", "listwise-json")


def a_label(n: int, **more: Any) -> Label:
    """The teacher turned the first stage's order round."""
    documents = tuple(LabelledDocument(f"d{place}", f"passage {place}") for place in range(n))
    return Label("q", "a query", documents, tuple(reversed(range(n))), **more)


def rows_of(rows: Any) -> list[Any]:
    return list(rows)


# --- tables ---------------------------------------------------------------------------------------------------------


@UNHURRIED
@given(labels(), st.sampled_from(["auto", "linear", "reciprocal", "grades"]))
def test_a_listwise_row_is_the_ranking_with_falling_values(label: Label, kind: Any) -> None:
    skipped = Skipped()
    rows = rows_of(listwise([label], ALL, Valuation(kind), skipped))

    if len(label.order) < 2:
        assert (rows, skipped.reasons.total()) == ([], 1)
        return
    (row,) = rows
    assert list(row) == ["query", "docs", "labels"], "another column would be another input of the model"
    assert (row["query"], row["docs"]) == (label.query, [one.text for one in label.ranking])
    if kind == "auto" and label.scores and None not in label.scores:
        assert row["labels"] == [label.scores[place] for place in label.order]
    else:
        assert row["labels"] == sorted(row["labels"], reverse=True)
        assert all(0 <= value <= max(1, 3) for value in row["labels"])


@UNHURRIED
@given(labels(min_size=2))
def test_scores_are_wanted_or_the_label_is_left_out(label: Label) -> None:
    skipped = Skipped()
    rows = rows_of(listwise([label], ALL, Valuation("scores"), skipped))

    scored = bool(label.scores) and None not in label.scores
    assert (len(rows), skipped.reasons.total()) == ((1, 0) if scored else (0, 1))


@UNHURRIED
@given(labels(), st.integers(1, 10))
def test_pointwise_rows_are_the_first_of_the_ranking(label: Label, top: int) -> None:
    rows = rows_of(pointwise([label], Selection(top=top), Valuation("linear"), Skipped()))

    assert [row["document"] for row in rows] == [one.text for one in label.ranking[:top]]


@UNHURRIED
@given(labels(), st.integers(1, 3), st.integers(1, 4))
def test_a_positive_always_stands_above_its_negative(label: Label, positives: int, negatives: int) -> None:
    distinct = replace(
        label, documents=tuple(replace(one, text=str(place)) for place, one in enumerate(label.documents))
    )
    rows = rows_of(triplets([distinct], ALL, Valuation("linear"), Skipped(), positives=positives, negatives=negatives))

    n = len(label.order)
    assert len(rows) == min(positives, n) * min(negatives, max(0, n - positives))
    for row in rows:
        assert list(row) == ["anchor", "positive", "negative", "label"]
        better, worse = label.ranks[int(row["positive"])], label.ranks[int(row["negative"])]
        assert better <= positives < worse
        assert row["label"] == pytest.approx((worse - better) / n)
        assert row["label"] > 0


@UNHURRIED
@given(st.integers(0, 20), st.integers(0, 40), st.integers(1, 10))
def test_negatives_are_spread_over_all_that_is_there(start: int, stop: int, number: int) -> None:
    found = spread(start, stop, number)

    assert len(found) == min(number, max(0, stop - start)) == len(set(found))
    assert all(start <= one < stop for one in found)
    assert not found or found[0] == start


def test_pairs_that_the_teacher_judges_alike_in_both_orders() -> None:
    label = a_label(
        4,
        verdicts=(
            Verdict(0, 1, 0.9), Verdict(1, 0, 0.3),  # both say 0
            Verdict(0, 2, 0.9), Verdict(2, 0, 0.8),  # whoever stands first wins
            Verdict(1, 2, 0.9),  # shown once
            Verdict(2, 3, 0.0), Verdict(3, 2, 1.0),  # both say 3
        ),
    )  # fmt: skip
    skipped = Skipped()
    rows = rows_of(verdict_triplets([label], ALL, skipped))

    assert [(row["positive"], row["negative"], row["label"]) for row in rows] == [
        ("passage 0", "passage 1", 0.6),
        ("passage 3", "passage 2", 1.0),
    ]
    assert skipped.reasons == {"pairs whose winner changes with the order": 1, "pairs shown in one order only": 1}
    assert rows_of(verdict_triplets([label], Selection(top=2), Skipped())) == rows[1:]


# --- which labels ---------------------------------------------------------------------------------------------------


@UNHURRIED
@given(st.lists(labels(min_size=2), max_size=6), st.floats(-1, 1), st.booleans())
def test_whoever_contradicts_himself_is_left_out_and_counted(
    given_labels: list[Label], least: float, unrepaired: bool
) -> None:
    skipped = Skipped()
    kept = list(Selection(agreement_min=least, unrepaired=unrepaired).of(given_labels, skipped))

    assert len(kept) + skipped.reasons.total() == len(given_labels)
    for label in given_labels:
        agrees = label.agreement is not None and label.agreement.kendall_tau >= least
        assert (label in kept) == (agrees and not (unrepaired and label.repaired))


def test_a_selection_that_exists_is_valid() -> None:
    for wrong in ({"agreement_min": 2.0}, {"top": 0}):
        with pytest.raises(ValueError, match="is"):
            Selection(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="grade ranks are 5, 5"):
        Valuation("grades", (5, 5))
    with pytest.raises(ValueError, match="one of"):
        Valuation("nothing")  # type: ignore[arg-type]


# --- qrels ----------------------------------------------------------------------------------------------------------


@UNHURRIED
@given(st.lists(st.integers(1, 50), min_size=1, max_size=4, unique=True).map(sorted), st.integers(1, 60))
def test_the_grade_of_a_rank_falls_with_it(grade_ranks: list[int], rank: int) -> None:
    grade = grade_of_rank(rank, grade_ranks)

    assert grade >= grade_of_rank(rank + 1, grade_ranks)
    assert grade == (len(grade_ranks) if rank <= grade_ranks[0] else grade)
    assert (grade == 0) == (rank > grade_ranks[-1])
    assert [grade_of_score(score, (0.9, 0.5)) for score in (0.95, 0.9, 0.7, 0.1)] == [2, 2, 1, 0]


def test_trec_tools_read_the_qrels_and_the_teacher_is_perfect_by_them(tmp_path: Path) -> None:
    label = a_label(12)
    path = tmp_path / "teacher.qrels"
    path.write_text("\n".join(qrels([label], ALL, Skipped())) + "\n")

    read = list(ir_measures.read_trec_qrels(str(path)))
    run = [ir_measures.ScoredDoc("q", one.docid, -rank) for rank, one in enumerate(label.ranking)]

    assert {one.doc_id: one.relevance for one in read if one.relevance} == {
        "d11": 3, "d10": 2, "d9": 2, "d8": 2, "d7": 2, "d6": 1, "d5": 1, "d4": 1, "d3": 1, "d2": 1
    }  # fmt: skip
    assert len(read) == 12
    assert ir_measures.calc_aggregate([ir_measures.nDCG @ 10], read, run)[ir_measures.nDCG @ 10] == 1.0


def test_qrels_by_score_and_ids_that_they_cannot_carry() -> None:
    scored = a_label(3, scores=(0.1, 0.6, 0.95), score_kind="probability")
    odd = Label(1, "", (LabelledDocument("two words"), LabelledDocument(7)), (0, 1))
    skipped = Skipped()

    assert list(qrels([scored], ALL, skipped, thresholds=(0.9, 0.5))) == ["q 0 d2 2", "q 0 d1 1", "q 0 d0 0"]
    assert list(qrels([odd], ALL, skipped)) == ["1 0 7 2"]
    assert skipped.reasons == {"candidates whose id has a space, which qrels cannot carry": 1}


# --- conversations --------------------------------------------------------------------------------------------------


@UNHURRIED
@given(labels(min_size=2, max_size=6), st.sampled_from(LISTWISE), st.integers(2, 4), st.integers(0, 2))
def test_the_prompt_reads_its_own_target_as_the_teachers_order(
    label: Label, name: str, size: int, shuffles: int
) -> None:
    prompt = prompts.load(name)
    windows = Windows(size, max(1, size // 2), shuffles)
    marked = replace(label, documents=tuple(replace(one, text=f"W{p}W") for p, one in enumerate(label.documents)))
    rows = rows_of(conversations([marked], ALL, prompt, windows, Skipped()))

    seen: set[int] = set()
    for row in rows:
        *asked, answer = row["messages"]
        assert answer["role"] == "assistant"
        shown = "\n".join(turn["content"] for turn in asked)
        window = sorted(
            (shown.index(f"W{place}W"), place) for place in range(len(label.order)) if f"W{place}W" in shown
        )
        places = [place for _, place in window]
        sheet = Sheet(label.query, tuple(f"W{place}W" for place in places))
        reading = prompt.read(answer["content"], sheet)
        assert reading.repair is Repair.OK
        assert is_permutation(reading.answer, len(places))
        ranks = [label.ranks[places[shown_at]] for shown_at in reading.answer]
        assert ranks == sorted(ranks)
        seen.update(places)
    assert seen == set(range(len(label.order)))
    assert len(rows) % (1 + shuffles) == 0


def test_a_conversation_is_the_prompt_that_podium_sends_letter_by_letter() -> None:
    label = a_label(3)
    prompt = prompts.load("rank-zephyr")
    (row,) = conversations([label], ALL, prompt, Windows(), Skipped())

    turns = prompt.render(Sheet("a query", ("passage 0", "passage 1", "passage 2")))
    assert row["messages"][:-1] == [{"role": turn.role, "content": turn.content} for turn in turns]
    assert row["messages"][-1] == {"role": "assistant", "content": "[3] > [2] > [1]"}
    (sharegpt,) = conversations([label], ALL, prompt, Windows(), Skipped(), style="sharegpt")
    assert [turn["from"] for turn in sharegpt["conversations"]] == ["system", "human", "gpt"]
    assert [turn["value"] for turn in sharegpt["conversations"]] == [turn["content"] for turn in row["messages"]]


def test_only_the_first_ranks_in_their_first_stage_order() -> None:
    (row,) = conversations([a_label(30)], Selection(top=3), prompts.load("rank-zephyr"), Windows(), Skipped())

    content = row["messages"][1]["content"]
    assert "[1] passage 27\n[2] passage 28\n[3] passage 29\n" in content
    assert row["messages"][-1]["content"] == "[3] > [2] > [1]"


@pytest.mark.parametrize("name", ["first", "pairwise", "yes-no", "setwise"])
def test_prompts_that_no_listwise_model_learns_from(name: str) -> None:
    with pytest.raises(FailedPrecondition, match="learns from one that is answered by an order in text"):
        list(conversations([a_label(3)], ALL, prompts.load(name), Windows(), Skipped()))


# --- files ----------------------------------------------------------------------------------------------------------


def label_file(path: Path, *rows: Label | Unlabelled) -> Path:
    lines = [record(one) if isinstance(one, Label) else error_record(one) for one in rows]
    path.write_text("".join(written(line) + "\n" for line in lines), "utf-8")
    return path


def test_plain_and_packed_hold_the_same(tmp_path: Path) -> None:
    source = label_file(tmp_path / "labels.jsonl", a_label(3), Unlabelled("x", "BACKEND_DOWN", "gone"))
    recipe = Recipe("listwise")

    done = export(source, str(tmp_path / "a.jsonl"), recipe)
    export(source, str(tmp_path / "b.jsonl.gz"), recipe)

    assert (done.labels, done.examples, done.skipped.reasons.total()) == (2, 1, 1)
    assert gzip.decompress((tmp_path / "b.jsonl.gz").read_bytes()) == (tmp_path / "a.jsonl").read_bytes()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl.gz", "labels.jsonl"]


@pytest.mark.parametrize("target", ["listwise", "pointwise", "triplets", "conversations"])
def test_parquet_holds_what_the_json_lines_hold(tmp_path: Path, target: Any) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    source = label_file(tmp_path / "labels.jsonl", a_label(5), a_label(3))
    recipe = Recipe(target, prompt=prompts.load("rank-zephyr"))

    export(source, str(tmp_path / "a.jsonl"), recipe)
    export(source, str(tmp_path / "a.parquet"), recipe)

    assert parquet.read_table(tmp_path / "a.parquet").to_pylist() == read_rows(tmp_path / "a.jsonl")


@pytest.mark.parametrize("target", ["listwise", "pointwise", "triplets", "conversations"])
def test_datasets_reads_the_json_lines(tmp_path: Path, target: Any) -> None:
    datasets = pytest.importorskip("datasets")
    source = label_file(tmp_path / "labels.jsonl", a_label(5), a_label(3))
    export(source, str(tmp_path / "a.jsonl"), Recipe(target, prompt=prompts.load("rank-zephyr")))

    table = datasets.Dataset.from_json(str(tmp_path / "a.jsonl"), cache_dir=str(tmp_path / "cache"))

    assert list(table) == read_rows(tmp_path / "a.jsonl")


def test_labels_without_texts_are_refused_with_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "lean.jsonl"
    path.write_text(written(record(a_label(2), texts=False)) + "\n")

    with pytest.raises(FailedPrecondition, match="--no-texts"):
        export(path, str(tmp_path / "out.jsonl"), Recipe("listwise"))
    assert not (tmp_path / "out.jsonl").exists()
    # Judgments need none.
    export(path, str(tmp_path / "out.qrels"), Recipe("qrels"))
    with pytest.raises(InvalidRequest, match="qrels are lines of text"):
        export(path, str(tmp_path / "out.parquet"), Recipe("qrels"))


def test_the_command(podium: Podium, tmp_path: Path) -> None:
    agreeing = a_label(3, agreement=agreement([(0, 1, 2), (0, 1, 2)]))
    source = label_file(tmp_path / "labels.jsonl", agreeing, replace(a_label(3), qid="lonely"))

    ended = podium("export-labels", source, "--to", "listwise", "--agreement-min", "0.5", "--out", "out.jsonl")
    typo = podium("export-labels", source, "--to", "conversations", "--prompt", "rank-zefyr", "--out", "o")
    mixed = podium("export-labels", source, "--to", "listwise", "--grade-ranks", "3,2", "--out", "o")

    assert ended.returncode == 0, ended.stderr
    assert len(read_rows(tmp_path / "out.jsonl")) == 1
    assert "left out: 1 labels without an agreement" in ended.stderr
    assert "1 lines of listwise from 2 labels" in ended.stderr
    assert (typo.returncode, mixed.returncode) == (2, 2)
    assert "did you mean 'rank-zephyr'?" in typo.stderr
    assert "rising" in mixed.stderr
    assert not (tmp_path / "o").exists()
    assert len(list(read_labels(source))) == 2


def test_every_style_and_line_is_json(tmp_path: Path) -> None:
    source = label_file(tmp_path / "labels.jsonl", a_label(3))
    for style in STYLES:
        export(source, str(tmp_path / style), Recipe("conversations", prompt=prompts.load("rank-gpt"), style=style))
        assert json.loads((tmp_path / style).read_text())
