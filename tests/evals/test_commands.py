"""`podium eval` as people use it: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from podium_evals.cli import COMMANDS
from podium_evals.results_file import read
from podium_server.cli.app import run
from tests.cli.conftest import Endpoint, endpoint  # noqa: F401  # a fixture

Eval = Callable[..., tuple[int, str, str]]


@pytest.fixture
def evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Eval:
    """Runs `podium eval` in this process, in a folder of its own; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def called(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(["eval", *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return called


def lists(folder: Path, queries: int = 3, name: str = "mine.jsonl") -> Path:
    rows = [
        {
            "qid": f"q{number}",
            "query": "how do cats land",
            "candidates": [
                {"docid": "b", "text": "a recipe for bread", "rel": 0},
                {"docid": "a", "text": "cats land on their feet by turning in the air", "rel": 1},
            ],
        }
        for number in range(queries)
    ]
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(evaluate: Eval, command: str) -> None:
    code, out, err = evaluate(command, "--help")
    assert code == 0, err
    assert "Example:" in out
    assert "\\b" not in out


def test_pipelines_over_a_suite(evaluate: Eval, tmp_path: Path) -> None:
    code, out, err = evaluate("run", lists(tmp_path), "--pipeline", "fast", "--pipeline", "recall", "--out", "o")
    assert code == 0, err
    for expected in ("first-stage", "fast", "nDCG@10", "p (Holm)", "1.0000", "path p50", "the lists' own"):
        assert expected in out
    results = read(tmp_path / "o" / "results.json")
    assert [system.name for system in results.evaluations[0].systems] == ["first-stage", "fast", "recall"]
    assert {"at", "command", "podium", "ir_measures", "seed"} <= set(results.made)
    assert {path.name for path in (tmp_path / "o").iterdir()} == {"results.json", "report.html", "runs"}
    run_file = (tmp_path / "o" / "runs" / "mine" / "fast.trec").read_text()
    assert run_file.splitlines()[0] == "q0 Q0 a 1 2 fast"
    assert evaluate("score", "o/runs/mine/fast.trec", "--suite", "mine.jsonl")[0] == 0


def test_a_suite_may_be_named_and_cut(evaluate: Eval, tmp_path: Path) -> None:
    lists(tmp_path, 5)
    code, out, _ = evaluate("run", "cats=mine.jsonl", "--pipeline", "recall", "--limit", 2, "--measures", "RR,P@1")
    assert code == 0
    assert "cats  2 judged queries" in out
    assert "the first 2 of 5 judged queries" in out
    assert "P@1" in out
    assert "nDCG" not in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mine.jsonl"], "Missing option '--pipeline'"),
        (["mine.jsonl", "--pipeline", "fasst"], "no pipeline is named 'fasst'"),
        (["nowhere", "--pipeline", "recall"], "there is no such file or folder"),
        (["mine.jsonl", "--pipeline", "first-stage"], "among the systems already"),
        (["mine.jsonl", "--pipeline", "recall", "--baseline", "x"], "is none of the systems of this run"),
        (["mine.jsonl", "--pipeline", "recall", "--measures", "nDCH@10"], "no measure"),
        (["mine.jsonl", "--pipeline", "recall", "--measures", ","], "names no measure"),
        (["mine.jsonl", "mine.jsonl", "--pipeline", "recall"], "two suites are called the same"),
        (["mine.jsonl", "x", "--qrels", "mine.jsonl", "--pipeline", "recall"], "judges one suite, and 2 are named"),
        (["mine.jsonl", "--pipeline", "recall", "--target", "h:1", "--config", "c"], "give one"),
        (["ir_datasets:no/such", "--pipeline", "recall"], "ir_datasets"),
        (["broken.jsonl", "--pipeline", "recall"], "line 1: is not JSON"),
    ],
)
def test_misuse_is_a_sentence(evaluate: Eval, tmp_path: Path, arguments: list[str], said: str) -> None:
    lists(tmp_path)
    (tmp_path / "broken.jsonl").write_text("{")
    code, _, err = evaluate("run", *arguments)
    assert code == 2
    assert said in err
    assert "Traceback" not in err


def test_queries_that_failed_are_counted_and_make_the_exit_code_1(evaluate: Eval, tmp_path: Path) -> None:
    lists(tmp_path)
    (tmp_path / "podium.toml").write_text(
        """
[models.nobody]
backend = "openai"
base_url = "http://127.0.0.1:9/v1"
model = "nobody"
attempts = 1
[pipelines.far]
stages = [{ strategy = "sliding-window", model = "nobody", prompt = "rank-vicuna" }]
"""
    )
    code, out, _ = evaluate("run", "mine.jsonl", "--config", "podium.toml", "--pipeline", "far", "--out", "o")
    assert code == 1
    assert "far: 3 of 3 queries without an answer, which count as 0" in out
    assert read(tmp_path / "o" / "results.json").evaluations[0].summaries["far"].failed == 3


def test_run_files_are_scored_and_compared(evaluate: Eval, tmp_path: Path) -> None:
    (tmp_path / "good.trec").write_text("1 Q0 a 1 2 x\n1 Q0 b 2 1 x\n2 Q0 a 1 1 x\n")
    (tmp_path / "bad.trec").write_text("1 Q0 b 1 2 x\n1 Q0 a 2 1 x\n2 Q0 a 1 1 x\n")
    (tmp_path / "q.txt").write_text("1 0 a 1\n2 0 a 1\n")
    code, out, _ = evaluate("score", "bad.trec", "best=good.trec", "--qrels", "q.txt", "--measures", "RR", "--out", "o")
    assert code == 0
    assert "differences from bad" in out
    assert ".7500" in out
    assert "calls" not in out, "nobody knows what a run file took"
    for arguments in (["bad.trec", "good.trec", "--qrels", "q.txt"], ["bad", "best", "--results", "o/results.json"]):
        code, out, _ = evaluate("compare", *arguments, "--measures", "RR")
        assert code == 0
        assert "+0.2500" in out
        assert "1–0–1" in out
    assert evaluate("score", "bad.trec")[0] == 2
    assert "has both bad and nobody" in evaluate("compare", "bad", "nobody", "--results", "o/results.json")[2]
    (tmp_path / "bad.trec").write_text("1 Q0 a 1 nan x\n")
    code, _, err = evaluate("score", "bad.trec", "--qrels", "q.txt")
    assert (code, "line 1: the score is 'nan'" in err) == (2, True)


def test_ctrl_c_leaves_what_was_done(tmp_path: Path, endpoint: Callable[[float], Endpoint]) -> None:  # noqa: F811
    slow = endpoint(0.3)
    config = slow.config(tmp_path / "podium.toml")
    lists(tmp_path, 30)
    arguments = [
        "run",
        "mine.jsonl",
        "--config",
        str(config),
        "--pipeline",
        "recall",
        "--pipeline",
        "judged",
        "--out",
        "o",
    ]
    job = subprocess.Popen(
        [sys.executable, "-m", "podium_server", "eval", *arguments],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while slow.calls < 2 and job.poll() is None:
        pass
    job.send_signal(signal.SIGINT)
    out, err = job.communicate(timeout=60)
    assert job.returncode == 130, err
    assert "interrupted: what was done is in the tables and in o" in err
    assert "missing mine × judged: interrupted after" in out
    results = read(tmp_path / "o" / "results.json")
    assert [system.name for system in results.evaluations[0].systems] == ["first-stage", "recall"]
    assert (tmp_path / "o" / "runs" / "mine" / "judged.partial.trec").exists()


def test_what_was_left_out_on_purpose_is_no_failure(evaluate: Eval, tmp_path: Path) -> None:
    from tests.evals.test_everything import little_data

    data = little_data(tmp_path)
    code, out, _ = evaluate("all", "--data", data, "--part", "peers", "--out", "o")
    assert code == 1, "BM25 on these three queries is not .5058"
    assert "another" in out
    code, out, err = evaluate("all", "--data", data, "--part", "peers", "--queries", 2, "--out", "o")
    assert code == 0, err
    assert "missing simulated: not asked for" in out
    assert "missing peers" in out
    code, _, err = evaluate("all", "--data", tmp_path / "nowhere", "--out", "o")
    assert (code, "has none of the suites" in err) == (2, True)


def test_the_document_names_commands_and_columns_that_there_are(evaluate: Eval, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "evals.md").read_text("utf-8")
    assert set(re.findall(r"podium eval ([a-z-]+)", text)) <= set(COMMANDS)
    lists(tmp_path)
    _, out, _ = evaluate("run", "mine.jsonl", "--pipeline", "recall")
    shown = {title for line in out.splitlines() if "calls" in line or "p (Holm)" in line for title in line.split("  ")}
    documented = {cell.strip() for row in re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE) for cell in row.split(",")}
    assert {title.strip() for title in shown} - {"", "system", "a query", "95 % of Δ"} <= documented
