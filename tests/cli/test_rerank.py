"""`podium rerank`: what comes out for what goes in, good or bad."""

from __future__ import annotations

import gzip
import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Endpoint, Podium, a_list, lines, write_lists


def test_lists_come_out_in_the_order_in_which_they_went_in(podium: Podium, tmp_path: Path) -> None:
    write_lists(tmp_path / "in.jsonl", [a_list(f"q{i}", 1 + i % 5) for i in range(300)])

    ended = podium("rerank", "--pipeline", "recall", "in.jsonl", "--out", "out.jsonl", "--run", "out.trec")

    assert ended.returncode == 0, ended.stderr
    out = lines(tmp_path / "out.jsonl")
    assert [line["qid"] for line in out] == [f"q{i}" for i in range(300)]
    assert out[4]["ranking"] == [f"q4-{i}" for i in range(5)]
    assert out[0]["completion"] == "complete"
    assert "usage" not in out[0]  # what differs between two runs is in the ledger
    assert (
        json.loads((tmp_path / "out.summary.json").read_text())["usage"].items()
        >= {"calls": 0, "cost_usd": 0.0}.items()
    )
    assert "300 lists ranked" in ended.stderr
    assert ended.stdout == ""
    assert {path.name for path in tmp_path.iterdir()} == {
        *("in.jsonl", "out.jsonl", "out.trec", "out.ledger.jsonl", "out.summary.json")
    }


def test_a_run_keeps_its_order_for_trec_eval(podium: Podium, tmp_path: Path) -> None:
    write_lists(tmp_path / "in.jsonl", [a_list("q", 1000)])

    podium("rerank", "--pipeline", "recall", "in.jsonl", "--out", "out.jsonl", "--run", "out.trec")

    rows = [line.split() for line in (tmp_path / "out.trec").read_text().splitlines()]
    assert [row[2] for row in rows] == [f"q-{i}" for i in range(1000)]
    assert [int(row[3]) for row in rows] == list(range(1, 1001))
    scores = [float(row[4]) for row in rows]
    assert all(above > below for above, below in itertools.pairwise(scores))
    assert {(row[0], row[1], row[5]) for row in rows} == {("q", "Q0", "podium-recall")}


def test_pipes_and_gzip(podium: Podium, tmp_path: Path) -> None:
    with gzip.open(tmp_path / "in.jsonl.gz", "wt") as packed:
        packed.write(json.dumps(a_list(7, 2)) + "\n\n")  # an id that is a number stays one

    from_file = podium("rerank", "--pipeline", "recall", "in.jsonl.gz", "--out", "out.jsonl.gz")
    from_pipe = podium("rerank", "--pipeline", "recall", "-", "--out", "-", stdin=json.dumps(a_list(7, 2)))

    assert from_file.returncode == from_pipe.returncode == 0
    with gzip.open(tmp_path / "out.jsonl.gz", "rt") as packed:
        (line,) = packed.read().splitlines()
    assert json.loads(line)["qid"] == 7
    assert json.loads(from_pipe.stdout)["ranking"] == ["7-0", "7-1"]


def test_sizes_that_are_easily_forgotten(podium: Podium, tmp_path: Path) -> None:
    write_lists(
        tmp_path / "in.jsonl", [a_list("none", 0), a_list("one", 1), a_list("many", 10_000), a_list("more", 10_001)]
    )

    ended = podium("rerank", "--pipeline", "recall", "in.jsonl", "--out", "out.jsonl")

    none, one, many, more = lines(tmp_path / "out.jsonl")
    assert (none["ranking"], none["completion"]) == ([], "complete")
    assert one["ranking"] == ["one-0"]
    assert many["ranking"] == [f"many-{i}" for i in range(10_000)]
    assert more["error"]["reason"] == "INVALID_REQUEST"
    assert "limits.documents is 10,000" in more["error"]["message"]
    assert ended.returncode == 1
    assert "line 4, qid more" in ended.stderr


BAD = {
    "no JSON": ("not json", "column 1"),
    "no object": ("[]", "a list"),
    "no qid": ('{"query": "q", "candidates": []}', "qid: is needed"),
    "no query": ('{"qid": "x", "candidates": []}', "query: is needed"),
    "a query that is a number": ('{"qid": "x", "query": 3, "candidates": []}', "query: is 3"),
    "an empty query": ('{"qid": "x", "query": " ", "candidates": []}', "query: is empty"),
    "no candidates": ('{"qid": "x", "query": "q"}', "candidates: is needed"),
    "no docid": ('{"qid": "x", "query": "q", "candidates": [{"text": ""}]}', "candidates[0].docid: is needed"),
    "no text": ('{"qid": "x", "query": "q", "candidates": [{"docid": "1"}]}', "candidates[0].text: is needed"),
    "a text that is null": (
        '{"qid": "x", "query": "q", "candidates": [{"docid": "1", "text": null}]}',
        "candidates[0].text: is null",
    ),
    "a score that is none": (
        '{"qid": "x", "query": "q", "candidates": [{"docid": "1", "text": "", "score": NaN}]}',
        "candidates[0].prior_score",
    ),
    "a docid twice": (
        '{"qid": "x", "query": "q", "candidates": [{"docid": 1, "text": ""}, {"docid": "1", "text": ""}]}',
        "candidates[1].id: '1' is the id of candidates[0] too",
    ),
    "deep JSON": ("[" * 100_000, "nested too deeply"),
}


def test_bad_lines_are_told_with_their_numbers_and_stop_nobody(podium: Podium, tmp_path: Path) -> None:
    given = [bad for bad, _ in BAD.values()] + [json.dumps(a_list("good", 2))]
    (tmp_path / "in.jsonl").write_bytes("\n".join(given).encode() + b'\n{"qid": "\xff"}\n')

    ended = podium("rerank", "--pipeline", "recall", "in.jsonl", "--out", "out.jsonl")

    assert ended.returncode == 1
    told = ended.stderr.splitlines()
    for number, (what, (_, expected)) in enumerate(BAD.items(), start=1):
        (line,) = [line for line in told if line.startswith((f"line {number}:", f"line {number},"))]
        assert expected in line, what
    assert any(line.startswith(f"line {len(BAD) + 2}:") and "UTF-8" in line for line in told)
    out = lines(tmp_path / "out.jsonl")
    assert [line["ranking"] for line in out if "ranking" in line] == [["good-0", "good-1"]]
    assert all(line["qid"] == "x" and line["error"]["message"] for line in out if "ranking" not in line)


def test_strict_stops_at_the_first_bad_line(podium: Podium, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps(a_list("a", 1)) + "\nbad\n" + json.dumps(a_list("b", 1)) + "\n")

    ended = podium("rerank", "--strict", "--pipeline", "recall", "in.jsonl", "--out", "out.jsonl")

    assert ended.returncode == 1
    assert "stopped at line 2" in ended.stderr
    assert "out.jsonl.part" in ended.stderr
    assert not (tmp_path / "out.jsonl").exists()
    assert lines(tmp_path / "out.jsonl.part")[0]["qid"] == "a"


def test_a_file_that_breaks_off_is_told(podium: Podium, tmp_path: Path) -> None:
    whole = gzip.compress("".join(json.dumps(a_list(f"q{i}", 50)) + "\n" for i in range(500)).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])

    ended = podium("rerank", "--pipeline", "recall", "cut.jsonl.gz", "--out", "out.jsonl")

    assert ended.returncode == 1
    assert "cannot be read on" in ended.stderr
    assert lines(tmp_path / "out.jsonl")


def test_ids_that_a_run_cannot_carry(podium: Podium, tmp_path: Path) -> None:
    write_lists(tmp_path / "in.jsonl", [a_list("two words", 1), a_list("fine", 1)])

    ended = podium("rerank", "--pipeline", "recall", "in.jsonl", "--out", "out.jsonl", "--run", "out.trec")

    assert ended.returncode == 1
    assert "lines 1" in ended.stderr
    assert len(lines(tmp_path / "out.jsonl")) == 2
    assert (tmp_path / "out.trec").read_text() == "fine Q0 fine-0 1 1 podium-recall\n"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--pipelin", "fast", "in.jsonl", "--out", "o"], 2, "--pipeline"),
        (["--pipeline", "recall", "in.jsonl"], 2, "--out"),
        (["--pipeline", "recall", "in.jsonl", "--out", "o", "--run", "r.parquet"], 2, "--run is r.parquet"),
        (["--pipeline", "recall", "in.jsonl", "--out", "o", "--ledger", "l.parquet"], 2, "--ledger is l.parquet"),
        (["--pipeline", "recall", "missing.jsonl", "--out", "o"], 1, "missing.jsonl: No such file"),
        (["--pipeline", "recal", "in.jsonl", "--out", "o"], 2, "did you mean 'recall'?"),
        (
            ["--config", "typo.toml", "in.jsonl", "--out", "o"],
            2,
            "models.judge.modle: no such key; did you mean 'model'?",
        ),
        (["--config", "missing.toml", "in.jsonl", "--out", "o"], 2, "missing.toml: there is no such file"),
        (["--pipeline", "recall", "in.jsonl", "--out", "no/such/folder/o"], 1, "No such file or directory"),
        (["--target", "localhost:1", "--config", "typo.toml", "in.jsonl", "--out", "o"], 2, "give one"),
        (["--target", "localhost:1", "in.jsonl", "--out", "o"], 1, "no server answers"),
        (["--concurrency", "0", "in.jsonl", "--out", "o"], 2, "--concurrency"),
    ],
)
def test_mistakes_are_one_sentence(podium: Podium, tmp_path: Path, arguments: list[str], code: int, told: str) -> None:
    write_lists(tmp_path / "in.jsonl", [a_list("q", 1)])
    (tmp_path / "typo.toml").write_text('[models.judge]\nbackend = "openai"\nmodle = "x"\n')

    ended = podium("rerank", *arguments)

    assert ended.returncode == code, ended.stderr
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "o").exists()
    assert not (tmp_path / "o.part").exists()


def test_a_pipeline_that_asks_a_model(podium: Podium, tmp_path: Path, endpoint: Callable[[float], Endpoint]) -> None:
    config = endpoint(0.0).config(tmp_path / "podium.toml")
    write_lists(tmp_path / "in.jsonl", [a_list(f"q{i}", 20) for i in range(5)])

    ended = podium("rerank", "--config", config, "--pipeline", "judged", "in.jsonl", "--out", "out.jsonl")

    assert ended.returncode == 0, ended.stderr
    for number, line in enumerate(lines(tmp_path / "out.jsonl")):
        assert line["ranking"] == [f"q{number}-{i}" for i in reversed(range(20))]
    for line in lines(tmp_path / "out.ledger.jsonl"):
        usage = line["usage"]
        assert (usage["calls"], usage["rounds"], usage["questions"]) == (1, 1, 1)
        assert (usage["prompt_tokens"], usage["output_tokens"]) == (100, 10)
        assert usage["cost_usd"] == pytest.approx(100 * 1e-6 + 10 * 2e-6)


def test_a_budget_of_each_list(podium: Podium, tmp_path: Path, endpoint: Callable[[float], Endpoint]) -> None:
    config = endpoint(0.0).config(tmp_path / "podium.toml")
    write_lists(tmp_path / "in.jsonl", [a_list("q", 60)])

    ended = podium(
        "rerank", "--config", config, "--pipeline", "judged", "in.jsonl", "--out", "out.jsonl", "--max-calls", 2
    )

    (line,) = lines(tmp_path / "out.jsonl")
    (told,) = lines(tmp_path / "out.ledger.jsonl")
    assert ended.returncode == 0
    assert line["completion"] == "partial_budget"
    assert told["usage"]["calls"] == 2
    assert [warned["code"] for warned in told["warnings"]] == ["PARTIAL"]
    assert sorted(line["ranking"]) == sorted(f"q-{i}" for i in range(60))
    assert "not complete: 1 partial_budget" in ended.stderr


def test_a_dead_endpoint_loses_no_list(podium: Podium, tmp_path: Path, endpoint: Callable[[float], Endpoint]) -> None:
    dead = endpoint(0.0)
    config = dead.config(tmp_path / "podium.toml", attempts=1)
    dead.server.shutdown()
    dead.server.server_close()
    write_lists(tmp_path / "in.jsonl", [a_list(f"q{i}", 3) for i in range(30)])

    ended = podium(
        "rerank", "--config", config, "--pipeline", "judged", "in.jsonl", "--out", "out.jsonl", "--run", "out.trec",
        "--patience", 0,
    )  # fmt: skip

    out = lines(tmp_path / "out.jsonl")
    assert ended.returncode == 1
    assert [line["qid"] for line in out] == [f"q{i}" for i in range(30)]
    assert {line["error"]["reason"] for line in out} == {"BACKEND_DOWN"}
    assert all("ranking" not in line for line in out)
    # An endpoint that cannot be asked for what it is, as the memory for verdicts wants, is not called at all.
    assert [line["usage"]["calls"] for line in lines(tmp_path / "out.ledger.jsonl")] == [0] * 30
    assert (tmp_path / "out.trec").read_text() == ""
    assert "failed: 30 BACKEND_DOWN" in ended.stderr
    assert "… and 10 more" in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_keeps_what_is_done(
    tmp_path: Path, endpoint: Callable[[float], Endpoint], number: signal.Signals
) -> None:
    slow = endpoint(0.1)
    config = slow.config(tmp_path / "podium.toml")
    write_lists(tmp_path / "in.jsonl", [a_list(f"q{i}", 5) for i in range(500)])
    command = ["rerank", "--config", str(config), "--pipeline", "judged", "in.jsonl", "--out", "out.jsonl"]
    job = subprocess.Popen(
        [sys.executable, "-m", "podium_server", *command, "--concurrency", "4"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    ends_at = time.monotonic() + 30
    while slow.calls < 12 and time.monotonic() < ends_at:
        time.sleep(0.02)

    job.send_signal(number)
    _, told = job.communicate(timeout=20)

    kept = lines(tmp_path / "out.jsonl.part")
    assert job.returncode == 130, told
    assert f"interrupted after {len(kept)} lists; what is done is in out.jsonl.part" in told
    assert 8 <= len(kept) < 500
    assert [line["qid"] for line in kept] == [f"q{i}" for i in range(len(kept))]
    assert not (tmp_path / "out.jsonl").exists()
    assert "Traceback" not in told


def test_many_lists_side_by_side(podium: Podium, tmp_path: Path, endpoint: Callable[[float], Endpoint]) -> None:
    slow = endpoint(1.0)
    write_lists(tmp_path / "in.jsonl", [a_list(f"q{i}", 5) for i in range(40)])

    config = slow.config(tmp_path / "podium.toml")
    ended = podium(
        "rerank", "--config", config, "--pipeline", "judged", "in.jsonl", "--out", "out.jsonl", "--concurrency", 30
    )

    assert ended.returncode == 0
    assert 20 <= slow.at_once_most <= 30


def test_a_job_pays_once_for_a_question(podium: Podium, tmp_path: Path, endpoint: Callable[[float], Endpoint]) -> None:
    toy = endpoint(0.0)
    config = toy.config(tmp_path / "podium.toml")
    write_lists(tmp_path / "in.jsonl", [a_list(f"q{i}", 20) for i in range(5)])
    command = ["rerank", "--config", config, "--pipeline", "judged", "in.jsonl", "--data-dir", "store", "--out"]

    podium(*command, "first.jsonl")
    again = podium(*command, "again.jsonl")

    assert again.returncode == 0, again.stderr
    assert toy.calls == 5
    assert (tmp_path / "first.jsonl").read_bytes() == (tmp_path / "again.jsonl").read_bytes()
    second = lines(tmp_path / "again.ledger.jsonl")
    assert {(line["usage"]["calls"], line["usage"]["cache_hits"], line["usage"]["cost_usd"]) for line in second} == {
        (0, 1, 0.0)
    }
