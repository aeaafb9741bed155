"""Jobs over several servers: the lists of one that dies go to the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import Endpoint, Podium, a_list, lines, write_lists


def serve(folder: Path, config: Path) -> tuple[subprocess.Popen[str], str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "podium_server", "serve", "--host", "127.0.0.1", "--port", "0", "--config", str(config),
         "--data-dir", str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    return server, server.stdout.readline().strip().removeprefix("listening on ")


def test_a_server_dies_and_another_was_never_there(
    podium: Podium, tmp_path: Path, endpoint: Callable[[float], Endpoint]
) -> None:
    slow = endpoint(0.05)
    config = slow.config(tmp_path / "podium.toml")
    write_lists(tmp_path / "in.jsonl", [a_list(f"q{i}", 5) for i in range(100)])
    steady, target = serve(tmp_path / "steady", config)
    mortal, other_target = serve(tmp_path / "mortal", config)
    try:
        job = subprocess.Popen(
            [sys.executable, "-m", "podium_server", "rerank", "--target", f"{other_target},{target}", "--target",
             "127.0.0.1:9", "--pipeline", "judged", "in.jsonl", "--out", "out.jsonl", "--concurrency", "8"],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        ends_at = time.monotonic() + 60
        while slow.calls < 30 and job.poll() is None and time.monotonic() < ends_at:
            time.sleep(0.02)
        assert job.poll() is None, job.communicate()[1]
        os.kill(mortal.pid, signal.SIGKILL)
        _, told = job.communicate(timeout=90)
    finally:
        for server in (steady, mortal):
            server.kill()
            server.wait()

    assert job.returncode == 0, told
    assert "no server answers at 127.0.0.1:9" in told
    assert "sent again, as a server did not answer" in told
    out = lines(tmp_path / "out.jsonl")
    assert [line["qid"] for line in out] == [f"q{i}" for i in range(100)]
    assert all(line["ranking"] == [f"{line['qid']}-{i}" for i in reversed(range(5))] for line in out)


def test_no_server_at_all(podium: Podium, tmp_path: Path) -> None:
    write_lists(tmp_path / "in.jsonl", [a_list("q", 1)])

    ended = podium("rerank", "--target", "127.0.0.1:9,127.0.0.1:10", "in.jsonl", "--out", "o")

    assert ended.returncode == 1
    assert "no server answers at 127.0.0.1:9" in ended.stderr
    assert not list(tmp_path.glob("o*"))


def test_an_outage_behind_a_stage_that_answers_stops_the_job(
    podium: Podium, tmp_path: Path, endpoint: Callable[[float], Endpoint]
) -> None:
    """The server answers every list, with the order of the first stage; the job sees that the second is gone."""
    config = endpoint(0.0).config(tmp_path / "podium.toml")
    config.write_text(
        config.read_text()
        + """
[models.gone]
backend = "openai"
base_url = "http://127.0.0.1:9/v1"
model = "gone"
attempts = 1
[pipelines.cascade]
stages = [
  { strategy = "sliding-window", model = "toy", prompt = "rank-vicuna" },
  { strategy = "sliding-window", name = "second", model = "gone", prompt = "rank-vicuna" },
]
"""
    )
    write_lists(tmp_path / "in.jsonl", [a_list(f"q{i}", 5) for i in range(30)])
    server, target = serve(tmp_path / "store", config)
    try:
        ended = podium(
            "rerank", "--target", target, "--pipeline", "cascade", "in.jsonl", "--out", "out.jsonl", "--patience", "5"
        )
    finally:
        server.kill()
        server.wait()

    assert ended.returncode == 1
    assert "BACKEND_DOWN" in ended.stderr
    assert not (tmp_path / "out.jsonl").exists()
    assert (tmp_path / "out.jsonl.part").read_text() == "", "the next run asks all of them again"
    assert json.loads((tmp_path / "out.summary.json").read_text())["ended"] == "outage"
