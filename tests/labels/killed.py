"""A labelling job over DL19 with a recorded teacher, killed with -9 and gone on with, beside an undisturbed one.

python -m tests.labels.killed --kills 3          all 43 queries; prints what came of it
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from podium_evals.replay import DATA, Recording, serve

RECORDING = "rank_vicuna_7b_dl19_bm25"
LISTS = DATA / "eval" / "dl19_bm25_top100.jsonl.gz"
FILES = ("labels.jsonl",)


@dataclass(frozen=True)
class Outcome:
    """What came of both jobs."""

    queries: int
    calls: int
    """Of the undisturbed job."""
    calls_of_the_killed: int
    killed_after_calls: tuple[int, ...]
    whole_lines_at_each_kill: tuple[int, ...]
    bytes: int
    sha256: tuple[str, str]
    elapsed_s: tuple[float, float]

    @property
    def identical(self) -> bool:
        return self.sha256[0] == self.sha256[1]

    @property
    def paid_twice(self) -> int:
        return self.calls_of_the_killed - self.calls


@contextmanager
def recorded(latency_s: float) -> Iterator[tuple[Recording, str]]:
    ranker = Recording.load(DATA / "recordings" / f"{RECORDING}.jsonl.gz", LISTS)
    server = serve(ranker, latency_s=latency_s)
    # A client that was killed is no news.
    server.handle_error = lambda request, address: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield ranker, f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def command(folder: Path, url: str, limit: int | None, concurrency: int) -> list[str]:
    folder.mkdir(exist_ok=True)
    # The address is no part of a job's identity: only how the teacher is reached.
    (folder / "podium.toml").write_text(f"""
[models.judge]
backend = "openai"
base_url = "{url}"
model = "{RECORDING}"
capabilities = ["text"]
[pipelines.teacher]
stages = [{{ strategy = "sliding-window", model = "judge", prompt = "rank-vicuna", size = 20, stride = 10 }}]
""")
    arguments = ["label", LISTS, "--config", "podium.toml", "--pipeline", "teacher", "--out", FILES[0]]
    arguments += ["--concurrency", concurrency] + ([] if limit is None else ["--limit", limit])
    return [sys.executable, "-m", "podium_server", *map(str, arguments)]


def run(folder: Path, *, limit: int | None, kills: int, latency_s: float, concurrency: int) -> Outcome:
    """Run both jobs in `folder`."""
    hits, elapsed = [], []
    died: list[int] = []
    whole: list[int] = []
    for name, times in (("undisturbed", 0), ("killed", kills)):
        here = folder / name
        began = time.monotonic()
        with recorded(latency_s) as (ranker, url):
            arguments = command(here, url, limit, concurrency)
            for kill in range(1, times + 1):
                job = subprocess.Popen(arguments, cwd=here, stderr=subprocess.PIPE, text=True)
                wait_for(ranker, hits[0] * kill // (times + 1), job)
                job.send_signal(signal.SIGKILL)
                job.communicate()
                died.append(ranker.stats()["hits"])
                journal = here / f"{FILES[0]}.journal"
                whole.append(json.loads(journal.read_text().splitlines()[1])["items"] if journal.exists() else 0)
            ended = subprocess.run(arguments, cwd=here, capture_output=True, text=True, check=False)
            assert ended.returncode == 0, ended.stderr
            hits.append(ranker.stats()["hits"])
            assert ranker.stats()["misses"] == 0
        elapsed.append(round(time.monotonic() - began, 1))
    contents = [(folder / name / FILES[0]).read_bytes() for name in ("undisturbed", "killed")]
    return Outcome(
        queries=contents[0].count(b"\n"),
        calls=hits[0],
        calls_of_the_killed=hits[1],
        killed_after_calls=tuple(died),
        whole_lines_at_each_kill=tuple(whole),
        bytes=len(contents[0]),
        sha256=(sha256(contents[0]).hexdigest(), sha256(contents[1]).hexdigest()),
        elapsed_s=(elapsed[0], elapsed[1]),
    )


def wait_for(ranker: Recording, calls: int, job: subprocess.Popen[str]) -> None:
    while ranker.stats()["hits"] < calls:
        assert job.poll() is None, job.communicate()[1]
        time.sleep(0.005)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, help="the first so many; all where it is missing")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--concurrency", type=int, default=4)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(
            Path(folder),
            limit=given.queries,
            kills=given.kills,
            latency_s=given.latency_ms / 1000,
            concurrency=given.concurrency,
        )
    print(json.dumps(asdict(outcome) | {"identical": outcome.identical, "paid_twice": outcome.paid_twice}, indent=2))


if __name__ == "__main__":
    main()
