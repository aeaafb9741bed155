"""A job that is stopped, however it is stopped, goes on where it was, and ends as if nothing had been."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Endpoint, Podium, a_list, lines, write_lists

LISTS = 120

# Each test starts several processes, and a busy machine takes seconds for each.
pytestmark = pytest.mark.timeout(300)


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "podium_server", "rerank", *map(str, arguments)],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def until(true: Callable[[], bool], job: subprocess.Popen[str]) -> None:
    ends_at = time.monotonic() + 120
    while not true():
        assert job.poll() is None, job.communicate()[1]
        assert time.monotonic() < ends_at
        time.sleep(0.01)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_three_times_killed(podium: Podium, tmp_path: Path, endpoint: Callable[[float], Endpoint], suffix: str) -> None:
    steady, slow = endpoint(0.0), endpoint(0.1)
    config = slow.config(tmp_path / "podium.toml")
    write_lists(tmp_path / "in.jsonl", [a_list(f"q{i}", 25) for i in range(LISTS)])
    undisturbed = podium(
        "rerank", "--config", steady.config(tmp_path / "steady.toml"), "--pipeline", "judged", "in.jsonl",
        "--out", f"whole.jsonl{suffix}", "--run", "whole.trec",
    )  # fmt: skip
    assert undisturbed.returncode == 0, undisturbed.stderr
    command = ("--config", config, "--pipeline", "judged", "in.jsonl", "--out", f"out.jsonl{suffix}")
    command += ("--run", "out.trec", "--concurrency", 4)

    for killed in (1, 2, 3):
        job = start(tmp_path, *command)
        until(lambda killed=killed: slow.calls > killed * LISTS // 2, job)  # type: ignore[misc]
        job.send_signal(signal.SIGKILL)
        job.wait()
        assert not (tmp_path / f"out.jsonl{suffix}").exists()
    last = start(tmp_path, *command)
    _, told = last.communicate(timeout=120)

    assert last.returncode == 0, told
    assert "going on behind" in told
    for name in (f"jsonl{suffix}", "trec"):
        assert (tmp_path / f"out.{name}").read_bytes() == (tmp_path / f"whole.{name}").read_bytes()
    # Nothing is paid twice but what was under way, or had not reached the disk, in the moment of each kill.
    assert slow.calls - steady.calls <= 3 * 3 * 4 * 2
    summary = json.loads((tmp_path / "out.summary.json").read_text())
    assert (summary["lists"], summary["runs"], summary["ended"]) == (LISTS, 4, "whole")
    assert (
        not list(tmp_path.glob("out*.part")) + list(tmp_path.glob("out*.journal*")) + list(tmp_path.glob("*.verdicts"))
    )


def test_an_interruption_pays_nothing_twice(
    podium: Podium, tmp_path: Path, endpoint: Callable[[float], Endpoint]
) -> None:
    slow = endpoint(0.05)
    config = slow.config(tmp_path / "podium.toml")
    write_lists(tmp_path / "in.jsonl", [a_list(f"q{i}", 25) for i in range(60)])
    command = ("--config", config, "--pipeline", "judged", "in.jsonl", "--out", "out.jsonl", "--concurrency", 4)
    job = start(tmp_path, *command)
    until(lambda: slow.calls >= 40, job)
    job.send_signal(signal.SIGINT)
    _, told = job.communicate(timeout=120)
    assert job.returncode == 130
    assert "the same command goes on with it" in told
    stopped = json.loads((tmp_path / "out.summary.json").read_text())
    assert stopped["ended"] == "interrupted"

    ended = podium("rerank", *command)

    assert ended.returncode == 0, ended.stderr
    summary = json.loads((tmp_path / "out.summary.json").read_text())
    assert summary["usage"]["calls"] == slow.calls  # over both runs, lists that were interrupted included
    assert slow.calls - 60 * 2 <= 4  # calls that were cut off in the middle
    assert len(lines(tmp_path / "out.jsonl")) == 60


def interrupted(podium: Podium, folder: Path, endpoint: Endpoint, rows: list[dict[str, Any]]) -> tuple[object, ...]:
    """Leave a job half done; return its command."""
    config = endpoint.config(folder / "podium.toml")
    write_lists(folder / "in.jsonl", rows)
    command = ("--config", config, "--pipeline", "judged", "in.jsonl", "--out", "out.jsonl", "--concurrency", 1)
    ended = podium("rerank", *command, "--job-max-calls", len(rows) // 2)
    assert ended.returncode == 3, ended.stderr
    return command


def test_another_input_or_pipeline_is_refused(
    podium: Podium, tmp_path: Path, endpoint: Callable[[float], Endpoint]
) -> None:
    toy = endpoint(0.0)
    rows = [a_list(f"q{i}", 3) for i in range(10)]
    command = interrupted(podium, tmp_path, toy, rows)
    part = (tmp_path / "out.jsonl.part").read_bytes()

    write_lists(tmp_path / "in.jsonl", [rows[0], a_list("other", 3), *rows[2:]])
    other_lists = podium("rerank", *command)
    write_lists(tmp_path / "in.jsonl", rows[:3])
    fewer = podium("rerank", *command)
    write_lists(tmp_path / "in.jsonl", rows)
    more_calls = podium("rerank", *command, "--max-calls", 9)
    with_run = podium("rerank", *command, "--run", "out.trec")

    for ended, told in (
        (other_lists, "the input has other lists than those 5 that are done already"),
        (fewer, "the input has 3 lists, and 5 are done already"),
        (more_calls, "budget of each list.max_calls was unset and is 9"),
        (with_run, 'outputs.run was unset and is "out.trec"'),
    ):
        assert ended.returncode == 2, ended.stderr
        assert told in " ".join(ended.stderr.split())
        assert "--restart" in ended.stderr
    assert (tmp_path / "out.jsonl.part").read_bytes() == part
    config = Path(str(command[1]))
    config.write_text(config.read_text().replace('"rank-vicuna"', '"rank-zephyr"'))
    other_prompt = podium("rerank", *command)
    assert 'its stages.stages[0].prompt was "rank-vicuna" and is' in " ".join(other_prompt.stderr.split())
    assert podium("rerank", *command, "--restart").returncode == 0


def test_lists_that_were_added_behind_are_ranked(
    podium: Podium, tmp_path: Path, endpoint: Callable[[float], Endpoint]
) -> None:
    rows = [a_list(f"q{i}", 3) for i in range(10)]
    command = interrupted(podium, tmp_path, endpoint(0.0), rows)
    write_lists(tmp_path / "in.jsonl", [*rows, a_list("added", 3)])

    assert podium("rerank", *command).returncode == 0
    assert [line["qid"] for line in lines(tmp_path / "out.jsonl")] == [*(f"q{i}" for i in range(10)), "added"]


BUDGETS = [("--job-max-calls", 7), ("--job-max-tokens", 770), ("--job-max-cost-usd", 0.00084)]


@pytest.mark.parametrize(("option", "amount"), BUDGETS)
def test_a_jobs_budget_is_not_passed_and_a_larger_one_goes_on(
    podium: Podium, tmp_path: Path, endpoint: Callable[[float], Endpoint], option: str, amount: float
) -> None:
    """Each list takes one call: 110 tokens, 120 millionths of a dollar. The budget holds seven of them."""
    toy = endpoint(0.01)
    config = toy.config(tmp_path / "podium.toml")
    write_lists(tmp_path / "in.jsonl", [a_list(f"q{i}", 5) for i in range(20)])
    command = ("rerank", "--config", config, "--pipeline", "judged", "in.jsonl", "--out", "out.jsonl")

    first = podium(*command, option, amount)
    again = podium(*command, option, amount)
    assert (first.returncode, again.returncode) == (3, 3), first.stderr
    assert toy.calls == 7
    assert "the job's budget is spent" in first.stderr
    assert len(lines(tmp_path / "out.jsonl.part")) == 7
    assert json.loads((tmp_path / "out.summary.json").read_text())["ended"] == "budget"

    last = podium(*command, option, amount * 100)
    assert last.returncode == 0, last.stderr
    assert toy.calls == 20
    assert json.loads((tmp_path / "out.summary.json").read_text())["usage"]["calls"] == 20


def test_a_job_without_time_begins_nothing(
    podium: Podium, tmp_path: Path, endpoint: Callable[[float], Endpoint]
) -> None:
    toy = endpoint(0.0)
    config = toy.config(tmp_path / "podium.toml")
    write_lists(tmp_path / "in.jsonl", [a_list("q", 5)])
    command = ("rerank", "--config", config, "--pipeline", "judged", "in.jsonl", "--out", "out.jsonl")

    ended = podium(*command, "--job-max-hours", 0)

    assert ended.returncode == 3
    assert "its budget is 0 h" in ended.stderr
    assert toy.calls == 0
    assert podium(*command).returncode == 0


def test_money_without_prices_cannot_be_bounded(
    podium: Podium, tmp_path: Path, endpoint: Callable[[float], Endpoint]
) -> None:
    toy = endpoint(0.0)
    config = toy.config(tmp_path / "podium.toml")
    config.write_text("\n".join(line for line in config.read_text().splitlines() if not line.startswith("prices")))
    write_lists(tmp_path / "in.jsonl", [a_list(f"q{i}", 5) for i in range(50)])

    ended = podium(
        "rerank", "--config", config, "--pipeline", "judged", "in.jsonl", "--out", "out.jsonl", "--job-max-cost-usd", 1
    )

    assert ended.returncode == 2
    assert "no price is configured" in ended.stderr
    assert toy.calls == 1


def test_a_finished_job_that_is_run_again_begins_again(podium: Podium, tmp_path: Path) -> None:
    write_lists(tmp_path / "in.jsonl", [a_list("q", 2)])
    command = ("rerank", "--pipeline", "recall", "in.jsonl", "--out", "out.jsonl")

    assert podium(*command).returncode == podium(*command).returncode == 0
    assert json.loads((tmp_path / "out.summary.json").read_text())["runs"] == 1


def test_strict_goes_on_with_the_line_that_was_mended(podium: Podium, tmp_path: Path) -> None:
    good = [json.dumps(a_list(f"q{i}", 2)) for i in range(5)]
    (tmp_path / "in.jsonl").write_text("\n".join([*good[:3], "bad", *good[3:]]))
    command = ("rerank", "--strict", "--pipeline", "recall", "in.jsonl", "--out", "out.jsonl")

    first = podium(*command)
    (tmp_path / "in.jsonl").write_text("\n".join(good))
    second = podium(*command)

    assert (first.returncode, second.returncode) == (1, 0), second.stderr
    assert "going on behind 3 lists" in second.stderr
    assert [line["qid"] for line in lines(tmp_path / "out.jsonl")] == [f"q{i}" for i in range(5)]


def test_an_outage_stops_the_job_and_no_list_is_given_up(
    podium: Podium, tmp_path: Path, endpoint: Callable[[float], Endpoint]
) -> None:
    toy = endpoint(0.0)
    toy.refuses_after = 20
    config = toy.config(tmp_path / "podium.toml")
    write_lists(tmp_path / "in.jsonl", [a_list(f"q{i}", 5) for i in range(60)])
    command = ("rerank", "--config", config, "--pipeline", "judged", "in.jsonl", "--out", "out.jsonl")
    command += ("--concurrency", 4, "--patience", 3)

    stopped = podium(*command)
    toy.refuses_after = None
    gone_on = podium(*command)

    assert stopped.returncode == 1
    assert "3 lists in a row found nobody to answer (BACKEND_REFUSED" in stopped.stderr
    assert "the same command goes on" in stopped.stderr
    assert gone_on.returncode == 0, gone_on.stderr
    assert [line["qid"] for line in lines(tmp_path / "out.jsonl")] == [f"q{i}" for i in range(60)]
    assert not any("error" in line for line in lines(tmp_path / "out.jsonl"))


def test_without_patience_to_lose_every_list_gets_its_error(
    podium: Podium, tmp_path: Path, endpoint: Callable[[float], Endpoint]
) -> None:
    toy = endpoint(0.0)
    toy.refuses_after = 0
    config = toy.config(tmp_path / "podium.toml")
    write_lists(tmp_path / "in.jsonl", [a_list(f"q{i}", 5) for i in range(30)])

    ended = podium(
        "rerank", "--config", config, "--pipeline", "judged", "in.jsonl", "--out", "out.jsonl", "--patience", 0
    )

    assert ended.returncode == 1
    assert [line["error"]["reason"] for line in lines(tmp_path / "out.jsonl")] == ["BACKEND_REFUSED"] * 30


def test_an_outage_behind_a_stage_that_answers_stops_the_job_too(
    podium: Podium, tmp_path: Path, endpoint: Callable[[float], Endpoint]
) -> None:
    toy = endpoint(0.0)
    toy.refuses_after = 20
    config = toy.config(tmp_path / "podium.toml")
    config.write_text(
        config.read_text()
        + """
[pipelines.two]
stages = [
  { strategy = "pointwise", model = "minilm", scoring = "cosine" },
  { strategy = "sliding-window", model = "toy", prompt = "rank-vicuna" },
]
"""
    )
    write_lists(tmp_path / "in.jsonl", [a_list(f"q{i}", 5) for i in range(60)])
    command = ("rerank", "--config", config, "--pipeline", "two", "in.jsonl", "--out", "out.jsonl")
    command += ("--concurrency", 4, "--patience", 3)

    stopped = podium(*command)
    toy.refuses_after = None
    gone_on = podium(*command)

    assert stopped.returncode == 1, stopped.stderr
    assert "3 lists in a row found nobody to answer (BACKEND_REFUSED" in stopped.stderr
    assert gone_on.returncode == 0, gone_on.stderr
    out = lines(tmp_path / "out.jsonl")
    assert [line["qid"] for line in out] == [f"q{i}" for i in range(60)]
    assert {line["completion"] for line in out} == {"complete"}


def test_a_first_line_that_costs_nothing_does_not_open_the_purse(
    podium: Podium, tmp_path: Path, endpoint: Callable[[float], Endpoint]
) -> None:
    toy = endpoint(0.05)
    config = toy.config(tmp_path / "podium.toml")
    write_lists(tmp_path / "lists.jsonl", [a_list(f"q{i}", 5) for i in range(20)])
    (tmp_path / "in.jsonl").write_text("no list\n" + (tmp_path / "lists.jsonl").read_text())

    ended = podium(
        "rerank", "--config", config, "--pipeline", "judged", "in.jsonl", "--out", "out.jsonl", "--job-max-calls", 7
    )

    assert ended.returncode == 3, ended.stderr
    assert toy.calls == 7
