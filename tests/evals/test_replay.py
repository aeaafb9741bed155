"""Real rankers, replayed: every window that they were asked for is asked for again, and their scores come out."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ir_measures
import pytest
from ir_measures import nDCG

from podium_evals.replay import DATA, Recording, rows, serve

LISTS = DATA / "eval" / "dl19_bm25_top100.jsonl.gz"
QRELS = DATA / "eval" / "qrels" / "dl19.txt"

pytestmark = pytest.mark.skipif(not LISTS.exists(), reason="needs ../shared/data")


@dataclass(frozen=True)
class Job:
    stats: dict[str, int]
    lines: list[dict]
    usages: list[dict]
    ndcg: float


@pytest.fixture
def replay(tmp_path: Path) -> Callable[[str, str], Job]:
    def run(recording: str, prompt: str) -> Job:
        ranker = Recording.load(DATA / "recordings" / f"{recording}.jsonl.gz", LISTS)
        server = serve(ranker)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = tmp_path / "podium.toml"
        config.write_text(f"""
[models.judge]
backend = "openai"
base_url = "http://127.0.0.1:{server.server_address[1]}/v1"
model = "{recording}"
[pipelines.replayed]
stages = [{{ strategy = "sliding-window", model = "judge", prompt = "{prompt}", size = 20, stride = 10 }}]
""")
        out, trec = tmp_path / "out.jsonl", tmp_path / "out.trec"
        command = ["rerank", "--config", config, "--pipeline", "replayed", LISTS, "--out", out, "--run", trec]
        try:
            ended = subprocess.run(
                [sys.executable, "-m", "podium_server", *map(str, command)], capture_output=True, text=True, timeout=100
            )
        finally:
            server.shutdown()
            server.server_close()
        assert ended.returncode == 0, ended.stderr
        qrels = list(ir_measures.read_trec_qrels(str(QRELS)))
        measured = ir_measures.calc_aggregate([nDCG @ 10], qrels, ir_measures.read_trec_run(str(trec)))
        lines, ledgers = ([json.loads(line) for line in path.open()] for path in (out, tmp_path / "out.ledger.jsonl"))
        return Job(ranker.stats(), lines, [ledger["usage"] for ledger in ledgers], measured[nDCG @ 10])

    return run


@pytest.mark.parametrize(
    ("recording", "prompt", "ndcg", "malformed"),
    [
        ("rank_vicuna_7b_dl19_bm25", "rank-vicuna", 0.6682, 0),
        ("rank_vicuna_7b_early_dl19_bm25", "rank-vicuna", 0.6665, 11),
        ("vicuna_7b_untrained_dl19_bm25", "rank-gpt-vicuna", 0.5058, 18),
    ],
)
def test_a_recorded_ranker_scores_what_it_scored(
    replay: Callable[[str, str], Job], recording: str, prompt: str, ndcg: float, malformed: int
) -> None:
    job = replay(recording, prompt)

    assert job.stats == {"hits": 387, "misses": 0, "windows_asked": 387, "windows": 387}
    assert round(job.ndcg, 4) == ndcg
    assert [line["completion"] for line in job.lines] == ["complete"] * 43
    assert sum(usage["calls"] for usage in job.usages) == 387
    assert {usage["rounds"] for usage in job.usages} == {9}
    assert sum(usage.get("malformed_replies", 0) for usage in job.usages) == malformed


def test_the_recorded_prompts_are_known_as_they_are() -> None:
    for path in sorted((DATA / "recordings").glob("*.jsonl.gz")):
        ranker = Recording.load(path, LISTS)
        recorded = [row for row in rows(path) if "prompt" in row]
        assert recorded
        for row in recorded:
            assert ranker.reply([{"role": "user", "content": row["prompt"]}]) == row["reply"]


def test_a_window_that_nobody_recorded_is_a_miss() -> None:
    ranker = Recording.load(DATA / "recordings" / "rank_vicuna_7b_dl19_bm25.jsonl.gz", LISTS)

    assert ranker.reply([{"role": "user", "content": "how long is life cycle of flea\n\n[1] Something else."}]) is None
    assert ranker.stats()["misses"] == 1
