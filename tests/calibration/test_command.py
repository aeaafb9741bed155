"""`podium calibrate`: what it sees of a pipeline, and what its lines do when they are pasted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from podium_server.config import PipelineSection, StageSection
from podium_server.errors import InvalidRequest
from podium_server.jobs.labelled import LabelledList, read_lists
from podium_server.jobs.ndcg import ndcg
from podium_server.jobs.observe import Observer, targets
from podium_server.jobs.qrels import read_qrels
from podium_server.limits import Limits
from podium_server.ranking.pipeline import build
from podium_strategies.oracle import Oracle
from tests.cli.conftest import Podium, podium
from tests.ranking.scripted import ScriptedJudge

__all__ = ["podium"]  # a fixture

N = 16
EARLY = {"strategy": "early-exit", "k": 3, "models": {"fast": "f", "strong": "s"}}


def a_list(qid: int, *, sure: bool = False) -> dict[str, Any]:
    """Return a list with one answer: in the middle, or (sure) in front, where the scores stand out."""
    place = 0 if sure else N // 2
    candidates = [
        {"docid": f"{qid}-{i}", "text": f"{'the answer' if i == place else 'something else'} about {qid}, {i}"}
        | {"score": float(N - i) + 100 * (sure and i < 3), "rel": int(i == place)}
        for i in range(N)
    ]
    return {"qid": f"q{qid}", "query": f"the answer about {qid}", "candidates": candidates}


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def read(path: Path, rows: list[dict[str, Any]], **qrels: dict[str, float]) -> list[LabelledList]:
    return list(read_lists(written(path, rows), qrels))


async def seen(tmp_path: Path, *stages: dict[str, Any], place: int = 0) -> Any:
    judges = {"f": ScriptedJudge(Oracle.seeded(N, 1)), "s": ScriptedJudge(Oracle.seeded(N, 2))}

    def judge_of(section: StageSection, model: str, asks: Any) -> ScriptedJudge:
        return judges[model]

    section = PipelineSection(stages=tuple(StageSection(**stage) for stage in stages))
    [target] = targets(build("p", section, judge_of, where="here"))
    assert target.place == place
    [given] = read(tmp_path / "lists.jsonl", [a_list(1)])
    return judges, await Observer(target, judge_of, Limits()).look(given)


async def test_both_judges_are_asked_about_everybody(tmp_path: Path) -> None:
    judges, found = await seen(tmp_path, EARLY)
    assert found.graded.fast == tuple(float(-judges["f"].oracle.truth.index(i)) for i in range(N))
    assert found.graded.strong == tuple(float(-judges["s"].oracle.truth.index(i)) for i in range(N))
    assert found.reranked is None
    assert {account.stage: account.questions for account in found.ledger} == {
        "early-exit.fast": N,
        "early-exit.strong": N,
    }


async def test_a_selective_stage_is_seen_without_its_threshold(tmp_path: Path) -> None:
    stage = {"strategy": "selective", "threshold": 0.01, "k": 3, "base": {"strategy": "pointwise", "model": "s"}}
    judges, found = await seen(tmp_path, stage)
    assert found.graded is None
    assert found.reranked.margin == pytest.approx(3 / (N - 1))
    truth = judges["s"].oracle.truth
    labels = [float(i == N // 2) for i in range(N)]
    assert found.reranked.before == ndcg(labels, labels, 10)
    assert found.reranked.after == ndcg([labels[i] for i in truth], labels, 10)


async def test_what_is_known_is_not_asked_again(tmp_path: Path) -> None:
    stage = {"strategy": "selective", "k": 3, "models": EARLY["models"], "base": {"strategy": "early-exit", "k": 3}}
    judges, found = await seen(tmp_path, stage)
    assert len(judges["f"].asked) == len(judges["s"].asked) == N
    truth, labels = judges["s"].oracle.truth, [float(i == N // 2) for i in range(N)]
    assert found.reranked.after == ndcg([labels[i] for i in truth], labels, 10)


async def test_a_stage_behind_others_is_shown_what_arrives_there(tmp_path: Path) -> None:
    first = {"strategy": "pointwise", "model": "f", "keep": 6}
    judges, found = await seen(tmp_path, first, EARLY, place=1)
    arrived = judges["f"].oracle.truth[:6]
    assert len(found.graded.strong) == 6
    # The scripted judge answers by place, in the list as it arrives.
    assert found.graded.labels.given == tuple(float(i == N // 2) for i in arrived)
    assert found.graded.labels.ideal.count(1.0) == 1


def test_a_pipeline_without_such_a_stage_is_refused() -> None:
    section = PipelineSection(stages=(StageSection(strategy="first-stage"),))
    with pytest.raises(InvalidRequest, match=r"no stage of early-exit or selective .* \(it has: first-stage\)"):
        targets(build("p", section, lambda section, model, asks: None, where="here"))  # type: ignore[arg-type, return-value]


def test_judgments_count_before_labels(tmp_path: Path) -> None:
    (tmp_path / "qrels").write_text("q1 0 1-3 2\nq1 0 elsewhere 1\n")
    [one] = read(tmp_path / "lists", [a_list(1)], **read_qrels(tmp_path / "qrels"))
    assert one.labels.given == tuple(2.0 * (i == 3) for i in range(N))
    assert sorted(one.labels.ideal) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"qid": "q", "query": "q", "candidates": [{"docid": "d", "text": "t"}]}, "no candidate has a label"),
        ({"qid": "q", "query": "q", "candidates": [{"docid": "d", "text": "t", "rel": "2"}]}, "rel is '2'"),
        ({"qid": "q", "query": "q"}, "candidates"),
    ],
)
def test_a_line_without_labels_is_told_with_its_number(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=f"lists, line 2: .*{said}"):
        read(tmp_path / "lists", [a_list(1), row])


def test_judgments_that_are_none_are_told_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "qrels").write_text("q1 0 d 1\nq1 1\n")
    with pytest.raises(InvalidRequest, match=r"qrels, line 2: 2 columns"):
        read_qrels(tmp_path / "qrels")


CONFIG = """
[pipelines.two-step]
[[pipelines.two-step.stages]]
strategy = "selective"
k = 3
{selective}
models = {{ fast = {{ model = "minilm", scoring = "cosine" }}, strong = "minilm" }}
base = {{ strategy = "early-exit", k = 3{early} }}
"""


def test_the_printed_lines_can_be_pasted(podium: Podium, tmp_path: Path) -> None:
    """Through the embedded encoder: cosine first, late interaction where it can still change the top."""
    path = written(tmp_path / "lists.jsonl", [a_list(i, sure=i % 2 == 0) for i in range(12)])
    (tmp_path / "podium.toml").write_text(CONFIG.format(selective="", early=""))
    ended = podium("calibrate", path, "--config", "podium.toml", "--pipeline", "two-step", "--loss", 0.5)
    assert ended.returncode == 0, ended.stderr
    lines = dict(re.findall(r"^  (slope|intercept|bound|threshold) = (\S+)$", ended.stdout, re.MULTILINE))
    assert set(lines) == {"slope", "intercept", "bound", "threshold"}
    early = "".join(f", {name} = {lines[name]}" for name in ("slope", "intercept", "bound"))
    (tmp_path / "podium.toml").write_text(CONFIG.format(selective=f"threshold = {lines['threshold']}", early=early))
    ended = podium("rerank", path, "--config", "podium.toml", "--pipeline", "two-step", "--out", "out.jsonl")
    assert ended.returncode == 0, ended.stderr


def test_a_servers_queue_refuses_no_list(podium: Podium, tmp_path: Path) -> None:
    path = written(tmp_path / "lists.jsonl", [a_list(i, sure=i % 2 == 0) for i in range(12)])
    config = "[limits]\nencoder_queue = 1\n" + CONFIG.format(selective="", early="")
    (tmp_path / "podium.toml").write_text(config)
    ended = podium("calibrate", path, "--config", "podium.toml", "--pipeline", "two-step", "--concurrency", 8)
    assert "left out" not in ended.stderr
    assert ended.returncode == 0, ended.stderr


def test_too_few_lists_are_refused(podium: Podium, tmp_path: Path) -> None:
    path = written(tmp_path / "lists.jsonl", [a_list(i) for i in range(3)])
    (tmp_path / "podium.toml").write_text(CONFIG.format(selective="", early=""))
    ended = podium("calibrate", path, "--config", "podium.toml", "--pipeline", "two-step")
    assert ended.returncode == 2
    assert "3 that can be used; at least 10 are needed" in ended.stderr
