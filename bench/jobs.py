"""Lists a second of `podium rerank` with the first-stage strategy, beside a plain Python loop over the same file.

The loop does what nobody can do without: json.loads, sort by score, json.dumps. The job also validates every list,
runs a strategy's plan, keeps a journal that survives kill -9, and writes in order. Both run as processes of their own,
one after the other; RSS is looked at ten times a second, and its growth is counted from the first tenth of the job on.
On a machine that others use, too, read the ratio of processor seconds.

    python bench/jobs.py [--lists 1000000] [--rounds 1] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CANDIDATES = 20
LOOP = """
import json, sys
with open(sys.argv[1]) as given, open(sys.argv[2], "w") as out:
    for line in given:
        row = json.loads(line)
        best = sorted(row["candidates"], key=lambda candidate: -candidate["score"])
        ranked = {"qid": row["qid"], "ranking": [c["docid"] for c in best], "scores": [c["score"] for c in best]}
        out.write(json.dumps(ranked) + "\\n")
"""
LOOK_EVERY_S = 0.1
MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1, help="of both, one after the other; the best counts")
    parser.add_argument("--keep", type=Path, help="a folder for the files, instead of one that goes")
    arguments = parser.parse_args()
    if arguments.keep is not None:
        arguments.keep.mkdir(parents=True, exist_ok=True)
        measure(arguments.keep, arguments.lists, arguments.rounds)
        return
    with tempfile.TemporaryDirectory(prefix="podium-bench-") as folder:
        measure(Path(folder), arguments.lists, arguments.rounds)


def measure(folder: Path, lists: int, rounds: int) -> None:
    source = make(folder / f"lists-{lists}.jsonl", lists)
    print(f"{lists:,} lists of {CANDIDATES} candidates, {source.stat().st_size / MIB:,.0f} MiB")
    loop_s, job_s, loop_cpu_s, job_cpu_s, growth = [], [], [], [], []
    for _ in range(rounds):
        taken_s, cpu_s, _ = run([sys.executable, "-c", LOOP, str(source), str(folder / "loop.jsonl")])
        loop_s.append(taken_s)
        loop_cpu_s.append(cpu_s)
        out = folder / "ranked.jsonl"
        job = ["-m", "podium_server", "rerank", "--pipeline", "recall", str(source), "--out", str(out), "--restart"]
        taken_s, cpu_s, seen = run([sys.executable, *job])
        summary = json.loads((folder / "ranked.summary.json").read_text())
        assert summary["lists"] == lists, summary
        job_s.append(taken_s)
        job_cpu_s.append(cpu_s)
        growth.append(max(seen) - seen[len(seen) // 10])
        print(
            f"  plain loop {lists / loop_s[-1]:,.0f} lists/s; podium rerank {lists / taken_s:,.0f} lists/s "
            f"({lists / summary['elapsed_s']:,.0f} without its start); RSS at most {max(seen) / MIB:,.0f} MiB, "
            f"grown by {growth[-1] / MIB:,.1f} MiB since its first tenth"
        )
    ratio, cpu_ratio = min(job_s) / min(loop_s), min(job_cpu_s) / min(loop_cpu_s)
    print(
        f"podium rerank takes {ratio:.2f} times as long as the loop, and {cpu_ratio:.2f} times its processor seconds; "
        f"RSS grows by {max(growth) / MIB:,.1f} MiB"
    )


def make(path: Path, lists: int) -> Path:
    """Write the file, if it is not there from another time: short texts, scores in no order, ties among them."""
    if path.exists():
        return path
    chance = random.Random(7)
    part = path.with_suffix(".making")
    with part.open("w") as out:
        for number in range(lists):
            candidates = ",".join(
                f'{{"docid":"d{chance.randrange(10**6)}-{place}","text":"t{place}","score":{chance.random() * 30:.2f}}}'
                for place in range(CANDIDATES)
            )
            out.write(f'{{"qid":"{number}","query":"query {number}","candidates":[{candidates}]}}\n')
    part.replace(path)
    return path


def run(command: list[str]) -> tuple[float, float, list[int]]:
    """Return the seconds of a command by the clock and of the processor, and its memory in bytes as it went."""
    began_s = time.perf_counter()
    seen = []
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(command, stderr=told)
        while True:
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            seen.append(_rss(process.pid))
            time.sleep(LOOK_EVERY_S)
        process.returncode = os.waitstatus_to_exitcode(status)
        taken_s = time.perf_counter() - began_s
        if process.returncode:
            told.seek(0)
            raise SystemExit(told.read().decode())
    return taken_s, used.ru_utime + used.ru_stime, [size for size in seen if size] or [0]


def _rss(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(fields[1]) * 4096 if len(fields) > 1 else 0


if __name__ == "__main__":
    main()
