"""Hard negatives: near the query, no known positive, and nothing that the teacher thinks as good as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_server.accounting.ledger import Ledger
from podium_server.errors import InvalidRequest
from podium_server.jobs.lists import BadLine, CandidateList
from podium_server.judges.judge import ScoreKind
from podium_server.labels.mining import MiningSettings, checked, known_positives, positives_of, same
from podium_server.labels.shapes import shaped
from podium_server.ranking.request import Completion, Outcome
from podium_server.recall.retriever import Hit
from tests.labels.conftest import Podium, read_rows, write_rows
from tests.labels.made_up import UNHURRIED

SCORES = st.lists(st.integers(-20, 20).map(lambda n: n / 4), min_size=1, max_size=12)


def outcome(scores: list[float], *, scored: bool = True) -> Outcome:
    order = tuple(sorted(range(len(scores)), key=lambda place: -scores[place]))
    kind = ScoreKind.LOGIT if scored else ScoreKind.NONE
    told: tuple[float | None, ...] = tuple(scores) if scored else (None,) * len(scores)
    return Outcome(order, told, kind, (), Completion.COMPLETE, "", Ledger(), pipeline="teacher")


@UNHURRIED
@given(SCORES, SCORES, st.floats(-3, 3))
def test_who_is_believed_scores_less_than_every_positive_less_the_margin(
    positives: list[float], negatives: list[float], margin: float
) -> None:
    found = checked(outcome(positives + negatives), len(positives), margin)

    assert sorted(found.believed + found.false) == list(range(len(negatives)))
    bar = min(positives) - margin
    assert all(negatives[place] < bar for place in found.believed)
    assert all(negatives[place] >= bar for place in found.false)
    assert (found.positive_scores, found.scores) == (tuple(positives), tuple(negatives))


@UNHURRIED
@given(SCORES, SCORES, st.floats(-3, 3), st.floats(0, 3))
def test_a_wider_margin_never_believes_more(
    positives: list[float], negatives: list[float], margin: float, more: float
) -> None:
    ranked = outcome(positives + negatives)
    narrow, wide = (checked(ranked, len(positives), m) for m in (margin, margin + more))

    assert set(wide.believed) <= set(narrow.believed)


@UNHURRIED
@given(SCORES, SCORES)
def test_without_scores_whoever_stands_above_a_positive_is_dropped(
    positives: list[float], negatives: list[float]
) -> None:
    ranked = outcome(positives + negatives, scored=False)
    found = checked(ranked, len(positives), 0.0)

    lowest = max(ranked.order.index(place) for place in range(len(positives)))
    for place in range(len(negatives)):
        assert (place in found.false) == (ranked.order.index(len(positives) + place) < lowest)
    with pytest.raises(InvalidRequest, match=r"margin: is 0\.5"):
        checked(ranked, len(positives), 0.5)


def hit(name: str, text: str) -> Hit:
    return Hit(name, 1.0, text, 0, 0, 0, len(text), {}, ())


@UNHURRIED
@given(st.text(min_size=1).filter(str.strip), st.sampled_from([str.upper, str.lower, lambda text: f" {text}\n"]))
def test_a_positive_is_known_by_its_id_and_by_its_words(text: str, changed: Any) -> None:
    known = known_positives([("a", text), ("b", "")])

    assert known(hit("a", "whatever"))
    assert known(hit("b", "whatever"))
    assert known(hit("c", changed(text))) == (same(changed(text)) == same(text))
    assert known(hit("c", f"  {text}  "))
    assert not known(hit("c", text + " and more"))


def test_queries_come_in_several_forms() -> None:
    read = shaped(positives_of, "positives")
    given_rows = {
        b'{"qid": 1, "query": "q", "positives": [{"docid": "a", "text": "A"}, "b", 3]}': (1, ("a", "b", 3)),
        b'{"query": "q", "positive": "A"}': ("line-7", ("line-7",)),
        b'{"qid": "x#1", "query": "q", "positive": "A", "docid": "d"}': ("x#1", ("d",)),
    }
    for row, (qid, docids) in given_rows.items():
        line = read(row, 7, 0)
        assert isinstance(line, CandidateList), line
        assert (line.qid, line.docids, line.texts[0]) == (qid, docids, "A")
    for bad, told in {b"[]": "no JSON object", b"{": "no JSON", b'{"qid": "q", "query": "q"}': "positives: is"}.items():
        line = read(bad, 7, 0)
        assert isinstance(line, BadLine)
        assert told in line.message


def test_settings_that_exist_are_valid() -> None:
    with pytest.raises(ValueError, match="from 5 to 3"):
        MiningSettings("c", first=5, last=3)
    with pytest.raises(ValueError, match="negatives is 0"):
        MiningSettings("c", negatives=0)


CORPUS = {
    "flea-1": "Adult fleas live about one hundred days on a host. The life cycle of a flea takes two to three weeks.",
    "flea-2": "The life cycle of fleas takes from two to three weeks, and an adult flea lives some hundred days.",
    "flea-3": "Flea collars and sprays keep fleas away from cats and dogs.",
    "tick": "Ticks are arachnids that feed on blood and may carry disease.",
    "cat": "Cats sleep for thirteen hours a day and purr when they are content.",
    "steel": "Steel is an alloy of iron and carbon, made in a blast furnace.",
    "copy": "adult FLEAS live about one hundred days on a host. The life cycle of a flea takes  two to three weeks.",
}
QUERY = "how long is the life cycle of a flea"


def mined(podium: Podium, path: Path, *arguments: object) -> dict[str, Any]:
    write_rows(path / "corpus.jsonl", [{"id": name, "text": text} for name, text in CORPUS.items()])
    write_rows(path / "queries.jsonl", [{"qid": "q", "query": QUERY, "positives": ["flea-1"]}])
    ended = podium("mine", "queries.jsonl", "--corpus", "corpus.jsonl", "--out", "lists.jsonl", *arguments)
    assert ended.returncode == 0, ended.stderr
    (row,) = read_rows(path / "lists.jsonl")
    row["said"] = ended.stderr
    return row


def test_the_teacher_finds_the_false_ones_among_real_recall(podium: Podium, tmp_path: Path) -> None:
    row = mined(podium, tmp_path, "--pipeline", "fast", "--ranks", "1:7", "--margin", "0.8")

    rel = {one["docid"]: one["rel"] for one in row["candidates"]}
    score = {one["docid"]: one["teacher_score"] for one in row["candidates"]}
    assert rel.pop("flea-1") == 1
    assert set(rel.values()) == {0}
    assert "copy" not in rel, "it says what the positive says"
    assert "flea-2" not in rel, "it answers the query as well as the positive does"
    assert {"tick", "cat", "steel"} <= set(rel)
    assert all(score[name] < score["flea-1"] - 0.8 for name in rel)
    assert row["mined"]["known"] == 2
    assert row["mined"]["false"] == 7 - 2 - len(rel)
    ranks = [one["rank"] for one in row["candidates"]]
    assert ranks == sorted(ranks)
    assert f"{row['mined']['false']} dropped as false negatives" in row["said"]
    assert {one.name for one in tmp_path.iterdir()} == {
        "corpus.jsonl", "queries.jsonl", "lists.jsonl", "lists.ledger.jsonl", "lists.summary.json"
    }  # fmt: skip


def test_unchecked_ranks_and_numbers(podium: Podium, tmp_path: Path) -> None:
    row = mined(podium, tmp_path, "--unchecked", "--ranks", "3:7", "--negatives", 2)

    negatives = [one for one in row["candidates"] if not one["rel"]]
    assert len(negatives) == 2
    assert all(3 <= one["rank"] <= 7 for one in negatives)
    assert "teacher_score" not in negatives[0]
    assert row["mined"]["false"] == 0


def test_what_is_mined_is_what_a_job_reads(podium: Podium, tmp_path: Path) -> None:
    mined(podium, tmp_path, "--unchecked")

    again = podium("rerank", "--pipeline", "recall", "lists.jsonl", "--out", "ranked.jsonl")

    assert again.returncode == 0, again.stderr
    assert len(read_rows(tmp_path / "ranked.jsonl")[0]["ranking"]) == 6


def test_mistakes_are_one_sentence(podium: Podium, tmp_path: Path) -> None:
    write_rows(tmp_path / "queries.jsonl", [{"qid": "q", "query": QUERY, "positives": ["nowhere"]}])
    write_rows(tmp_path / "corpus.jsonl", [{"id": "a", "text": "A text."}])
    here = ("mine", "queries.jsonl", "--out", "o.jsonl")
    told = {
        ("--corpus", "corpus.jsonl", "--collection", "c"): (2, "give one of them"),
        ("--collection", "nobody", "--data-dir", "data"): (2, "nobody"),
        ("--corpus", "corpus.jsonl", "--ranks", "9:3"): (2, "--ranks is '9:3'"),
        ("--corpus", "corpus.jsonl", "--pipeline", "fats"): (2, "did you mean 'fast'?"),
        ("--corpus", "corpus.jsonl", "--unchecked", "--margin", "1"): (2, "asks no teacher"),
        ("--corpus", "corpus.jsonl", "--unchecked"): (1, "NO_POSITIVE"),
        ("--corpus", "corpus.jsonl", "--out", "-"): (2, "no place beside a pipe"),
    }
    for arguments, (code, expected) in told.items():
        ended = podium(*here, *arguments)
        assert (ended.returncode, expected in ended.stderr) == (code, True), ended.stderr
        assert "Traceback" not in ended.stderr
