"""`podium label` with a simulated teacher: what it says of itself, of pairs, and of its own word."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest

from podium_server.labels.agreement import kendall_tau
from podium_server.labels.format import Label, Unlabelled, Verdict, parsed, read_labels, read_lines
from podium_server.labels.labeller import _Heard, sampled_pairs, sorted_verdicts
from podium_strategies import prompts
from tests.labels.conftest import Podium, Teacher, a_list, by_worth, read_rows, write_rows

WORTHS = [[3, 9, 1, 7, 5], [2, 1], [4], []]


def labelled(podium: Podium, path: Path, config: Path, *arguments: object) -> list[Label]:
    write_rows(path / "lists.jsonl", [a_list(f"q{i}", worths) for i, worths in enumerate(WORTHS)])
    ended = podium("label", "lists.jsonl", "--config", config, "--out", "labels.jsonl", *arguments)
    assert ended.returncode == 0, ended.stderr
    return list(read_labels(path / "labels.jsonl"))


def test_a_label_says_who_said_what(podium: Podium, tmp_path: Path, teacher: Callable[..., Teacher]) -> None:
    config = teacher().config(tmp_path / "podium.toml")
    five, two, one, none = labelled(podium, tmp_path, config, "--pipeline", "listwise")

    assert [document.docid for document in five.ranking] == ["q0-1", "q0-3", "q0-0", "q0-4", "q0-2"]
    assert (two.order, one.order, none.order) == ((0, 1), (0,), ())
    assert (five.agreement, five.verdicts, five.scores) == (None, (), ())
    assert (five.questions, five.rounds, five.repaired) == (2, 2, 0)
    (stage,) = five.teacher.stages
    assert (stage.strategy, stage.options) == ("sliding-window", {"size": 4, "stride": 2})
    assert (stage.model, stage.model_id, stage.revision) == ("judge", "simulated", "simulated-2026-11")
    assert (stage.prompt, stage.prompt_hash) == ("rank-vicuna/1", prompts.load("rank-vicuna").digest)
    assert stage.settings == {"temperature": 0.0}
    assert (five.teacher.pipeline, five.teacher.shuffles, five.teacher.aggregate) == ("listwise", 0, "")
    ledger = {row["qid"]: row["usage"] for row in read_rows(tmp_path / "labels.ledger.jsonl") if "usage" in row}
    assert ledger["q0"]["calls"] == 2
    assert ledger["q0"]["cost_usd"] == pytest.approx(2 * (100e-6 + 20e-6))
    assert ledger["q0"]["wall_s"] > 0


def test_a_teacher_who_looks_at_the_texts_agrees_with_himself(
    podium: Podium, tmp_path: Path, teacher: Callable[..., Teacher]
) -> None:
    config = teacher().config(tmp_path / "podium.toml")
    write_rows(tmp_path / "lists.jsonl", [a_list("q", [3, 9, 1, 7])])
    arguments = ("--config", config, "--pipeline", "listwise", "--shuffles", 3, "--out", "labels.jsonl")
    ended = podium("label", "lists.jsonl", *arguments)
    (label,) = read_labels(tmp_path / "labels.jsonl")

    assert label.agreement is not None
    assert len(label.agreement.runs) == 4
    assert (label.agreement.kendall_tau, label.agreement.top_overlap) == (1.0, 1.0)
    assert set(label.agreement.rank_variance) == {0.0}
    assert set(label.agreement.runs) == {label.order}
    assert (label.teacher.shuffles, label.teacher.aggregate, label.questions) == (3, "kemeny", 4)
    assert "Kendall's tau 1.000" in ended.stderr


def test_a_teacher_who_looks_at_places_is_found_out(
    podium: Podium, tmp_path: Path, teacher: Callable[..., Teacher]
) -> None:
    config = teacher(by_worth(place_counts=100)).config(tmp_path / "podium.toml")
    worths = [3, 9, 1, 7]
    write_rows(tmp_path / "lists.jsonl", [a_list("q", worths)])
    podium("label", "lists.jsonl", "--config", config, "--pipeline", "listwise", "--shuffles", 5, "--out", "l.jsonl")
    (label,) = read_labels(tmp_path / "l.jsonl")

    assert label.agreement is not None
    # It keeps whatever order it is shown, so that its runs are the shuffles themselves.
    assert label.agreement.runs[0] == (0, 1, 2, 3)
    taus = [kendall_tau(one, other) for one, other in combinations(label.agreement.runs, 2)]
    assert label.agreement.kendall_tau == pytest.approx(sum(taus) / len(taus), abs=1e-6)
    assert label.agreement.kendall_tau < 0.5
    assert any(variance > 0 for variance in label.agreement.rank_variance)


def test_a_pairwise_pipeline_leaves_all_its_verdicts(
    podium: Podium, tmp_path: Path, teacher: Callable[..., Teacher]
) -> None:
    config = teacher(by_worth(place_counts=1.5)).config(tmp_path / "podium.toml")
    five, *_ = labelled(podium, tmp_path, config, "--pipeline", "pairwise")

    worths = WORTHS[0]
    assert {(one.first, one.second) for one in five.verdicts} == {(a, b) for a in range(5) for b in range(5) if a != b}
    assert all(one.first_wins == (worths[one.first] + 1.5 >= worths[one.second]) for one in five.verdicts)
    assert five.score_kind == "points"
    assert list(five.scores) == [1, 4, 0, 3, 2]


def test_sampled_pairs_are_shown_both_ways(podium: Podium, tmp_path: Path, teacher: Callable[..., Teacher]) -> None:
    config = teacher().config(tmp_path / "podium.toml")
    arguments = ("--pipeline", "listwise", "--pairs", 4, "--pairs-depth", 4)
    five, two, one, none = labelled(podium, tmp_path, config, *arguments)

    shown = {(verdict.first, verdict.second) for verdict in five.verdicts}
    assert len(shown) == 8
    assert shown == {(b, a) for a, b in shown}
    assert {place for pair in shown for place in pair} <= set(five.order[:4])
    assert [len(label.verdicts) for label in (two, one, none)] == [2, 0, 0]
    assert all(v.first_wins == (WORTHS[0][v.first] > WORTHS[0][v.second]) for v in five.verdicts)
    assert [stage.stage for stage in five.teacher.stages] == ["sliding-window", "pairs"]
    assert five.teacher.stages[1].prompt == "pairwise/1"


def test_pairs_are_drawn_alike_for_ever() -> None:
    assert sampled_pairs((4, 2, 0, 1, 3), 3, 4, seed=1, salt=7) == [(0, 1), (0, 2), (1, 4)]
    assert sampled_pairs((4, 2, 0), 99, 2, seed=1, salt=7) == [(2, 4)]
    assert sampled_pairs((0,), 3, 4, seed=1, salt=7) == []


def test_verdicts_that_differ_stand_in_one_order_whoever_came_first() -> None:
    """A model that samples says several things of one pair; a resumed job writes them as the undisturbed one does."""
    verdicts = [Verdict(0, 1, at / 64) for at in range(64)]
    for given in (verdicts, verdicts[::-1]):
        heard = [_Heard((), (), "", frozenset({one}), 0, 0, 0) for one in given]
        assert sorted_verdicts(heard) == tuple(verdicts)


def test_grades_do_not_change_with_the_order_of_the_list(podium: Podium, tmp_path: Path) -> None:
    write_rows(tmp_path / "lists.jsonl", [a_list("q", [1, 2])])

    useless = podium("label", "lists.jsonl", "--pipeline", "fast", "--shuffles", 2, "--out", "l.jsonl")
    nobody = podium("label", "lists.jsonl", "--pipeline", "fast", "--pairs", 2, "--out", "l.jsonl")
    fine = podium("label", "lists.jsonl", "--pipeline", "fast", "--no-texts", "--out", "l.jsonl")

    assert (useless.returncode, nobody.returncode, fine.returncode) == (2, 2, 0), fine.stderr
    assert "leave --shuffles out" in useless.stderr
    assert "--pairs-model" in nobody.stderr
    (label,) = read_labels(tmp_path / "l.jsonl")
    assert (label.score_kind, label.documents[0].text) == ("fused", None)
    assert len(label.scores) == 2
    assert {stage.model for stage in label.teacher.stages} == {"minilm"}
    assert all(len(stage.revision) > 8 for stage in label.teacher.stages)


def test_a_cross_encoder_may_teach(podium: Podium, tmp_path: Path) -> None:
    write_rows(tmp_path / "lists.jsonl", [a_list("q", [1, 2])])

    ended = podium("label", "lists.jsonl", "--pipeline", "balanced", "--out", "l.jsonl")

    assert ended.returncode == 0, ended.stderr
    (label,) = read_labels(tmp_path / "l.jsonl")
    assert {stage.model for stage in label.teacher.stages} == {"minilm", "minilm-cross"}
    assert all(len(stage.revision) > 8 for stage in label.teacher.stages)


def test_a_list_without_a_label_has_its_error_in_its_place(
    podium: Podium, tmp_path: Path, teacher: Callable[..., Teacher]
) -> None:
    config = teacher().config(tmp_path / "podium.toml")
    write_rows(
        tmp_path / "lists.jsonl",
        [a_list("a", [1, 2]), {**a_list("b", [1, 2]), "query": " "}, a_list("c", [1, 2])],
    )
    ended = podium("label", "lists.jsonl", "--config", config, "--pipeline", "listwise", "--out", "labels.jsonl")

    a, b, c = read_lines(tmp_path / "labels.jsonl")
    assert ended.returncode == 1
    assert isinstance(a, Label)
    assert isinstance(c, Label)
    assert isinstance(b, Unlabelled)
    assert (b.qid, b.reason) == ("b", "INVALID_REQUEST")


def test_labels_through_a_pipe(podium: Podium, tmp_path: Path, teacher: Callable[..., Teacher]) -> None:
    config = teacher().config(tmp_path / "podium.toml")
    write_rows(tmp_path / "lists.jsonl", [a_list("q", [1, 2])])
    ended = podium("label", "lists.jsonl", "--config", config, "--pipeline", "listwise", "--out", "-")
    table = podium("label", "lists.jsonl", "--config", config, "--pipeline", "listwise", "--out", "o.parquet")

    assert ended.returncode == 0, ended.stderr
    label = parsed(ended.stdout.strip())
    assert isinstance(label, Label)
    assert label.order == (1, 0)
    assert {one.name for one in tmp_path.iterdir()} == {"lists.jsonl", "podium.toml"}
    assert (table.returncode, "export-labels makes tables" in table.stderr) == (2, True)


def test_half_an_order_is_no_label(podium: Podium, tmp_path: Path, teacher: Callable[..., Teacher]) -> None:
    calls = iter(range(100))

    def breaks_off(text: str) -> str:
        if "assage" in text and next(calls) >= 1:
            raise ConnectionError("gone")
        return by_worth()(text)

    config = teacher(breaks_off).config(tmp_path / "podium.toml", capabilities='capabilities = ["text"]\nattempts = 1')
    write_rows(tmp_path / "lists.jsonl", [a_list("q", [3, 9, 1, 7, 5])])
    ended = podium("label", "lists.jsonl", "--config", config, "--pipeline", "listwise", "--out", "labels.jsonl")

    (line,) = read_lines(tmp_path / "labels.jsonl")
    assert ended.returncode == 1
    assert isinstance(line, Unlabelled)
    assert line.reason == "PARTIAL_BACKEND"
    assert "PARTIAL_BACKEND" in ended.stderr
