"""Podium beside rerankers, llm-rankers and rank_llm: one judge, the same lists, the same prompt, in one table.

    python bench/peers.py [--queries N] [--contestants NAME …] [--noise medium] [--latency …] [--json FILE]

Everybody slides a window of 20 by 10 over the same 100 BM25 candidates of DL19 with RankGPT's conversation, and asks a
judge over HTTP: `podium eval simulate`, which answers the same prompt with the same reply, errs as a language model
does, and takes a stated time. Each contestant is a process in its own environment (built when it is first wanted), with
an endpoint process of its own of the same seed, so that nobody profits from another's prefix cache. They are asked in
turns of a few lists, round by round in another order: whatever else the machine does falls on all. Read the ratios.

Calls and tokens are counted by the endpoint, alike for all. Processor time is the client process's; for Podium over
gRPC the server's stands beside it. `mended` is what the library says of replies that it mended: the peers say nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from peers_environments import ENVIRONMENTS, ROOT
from rich import box
from rich.console import Console
from rich.table import Table

from podium_evals.measures import measure
from podium_evals.suite import read_qrels

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("PODIUM_DATA") or ROOT.parent / "shared" / "data") / "eval"
LISTS, QRELS = DATA / "dl19_bm25_top100.jsonl.gz", DATA / "qrels" / "dl19.txt"
RESULTS = ROOT / "bench" / "results"

# Fast enough for 387 calls one after another, and slow enough that waiting counts.
LATENCY = "prefill_tokens_per_s=100000,decode_tokens_per_s=2000,overhead_s=0.02"


@dataclass(frozen=True)
class Contestant:
    """A row of the table."""

    name: str
    title: str
    environment: str | None
    note: str = ""


CONTESTANTS = (
    Contestant("rerankers", "rerankers, RankGPTRanker", "rerankers", "asks one window; the walk is the bench's"),
    Contestant("llm-rankers", "llm-rankers, OpenAiListwise", "llm-rankers", "needs openai 0.27"),
    Contestant("rank_llm", "rank_llm, SafeOpenai", "rank_llm", "vllm, which it imports and does not call, is a stub"),
    Contestant("podium", "Podium, library, one list at a time", None),
    Contestant("podium-together", "Podium, library, lists side by side", None),
    Contestant("podium-grpc", "Podium, gRPC, one Rerank after another", None),
    Contestant("podium-grpc-batch", "Podium, gRPC, BatchRerank", None),
)


@dataclass
class Row:
    """What a contestant did, summed over its turns."""

    name: str
    title: str
    note: str
    versions: dict[str, str] = field(default_factory=dict)
    failed: str = ""
    lists: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    server_cpu_s: float = 0.0
    calls: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    malformed: dict[str, int] = field(default_factory=dict)
    mended: dict[str, int] = field(default_factory=dict)
    prompts: dict[str, int] = field(default_factory=dict)
    ndcg_at_10: float | None = None
    run: dict[str, list[str]] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=43, metavar="N")
    parser.add_argument("--turn", type=int, default=8, metavar="N", help="lists in a turn")
    parser.add_argument("--contestants", nargs="+", choices=[one.name for one in CONTESTANTS], metavar="NAME")
    parser.add_argument("--noise", default="medium", help="of `podium eval simulate`")
    parser.add_argument("--latency", default=LATENCY, help="likewise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--patience",
        type=float,
        default=600,
        metavar="S",
        help="of a turn; llm-rankers and rank_llm ask again without end where a call fails",
    )
    parser.add_argument("--json", type=Path, default=RESULTS / "peers.json", metavar="FILE")
    arguments = parser.parse_args()
    if not LISTS.exists():
        raise SystemExit(f"{LISTS} is not here; PODIUM_DATA names the folder of the data")
    chosen = [one for one in CONTESTANTS if arguments.contestants is None or one.name in arguments.contestants]
    lists = read_lists(arguments.queries)
    table = run(chosen, lists, arguments)
    qrels = read_qrels(QRELS)
    asked = {given["qid"]: qrels[given["qid"]] for given in lists}
    for row in table:
        if row.run:
            row.ndcg_at_10 = measure(row.run, asked).mean()
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "lists": len(lists),
        "noise": arguments.noise,
        "latency": arguments.latency,
        "seed": arguments.seed,
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    rows = [{key: value for key, value in asdict(row).items() if key != "run"} for row in table]
    arguments.json.write_text(json.dumps({"format": "podium-peers/1", "about": about, "rows": rows}, indent=2))
    show(table, about)
    print(f"figures: {arguments.json}", file=sys.stderr)


def read_lists(queries: int) -> list[dict[str, Any]]:
    """Return the first lists of DL19 as the workers read them."""
    with gzip.open(LISTS, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][:queries]
    return [
        {
            "qid": row["qid"],
            "query": row["query"],
            "docids": [one["docid"] for one in row["candidates"]],
            "passages": [one["text"] for one in row["candidates"]],
        }
        for row in rows
    ]


# --- turns ------------------------------------------------------------------------------------------------------


def run(chosen: Sequence[Contestant], lists: list[dict[str, Any]], arguments: argparse.Namespace) -> list[Row]:
    """Let everybody rank all lists, in turns."""
    rows = {one.name: Row(one.name, one.title, one.note) for one in chosen}
    numbers = list(range(len(lists)))
    turns = [numbers[at : at + arguments.turn] for at in range(0, len(numbers), arguments.turn)]
    shuffle = random.Random(arguments.seed)
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory(prefix="podium-peers-") as folder:
        path = Path(folder) / "lists.json"
        path.write_text(json.dumps(lists))
        workers: dict[str, Worker] = {}
        for one in chosen:
            try:
                workers[one.name] = stack.enter_context(working(one, path, arguments))
                rows[one.name].versions = workers[one.name].versions
            except Unable as why:
                rows[one.name].failed = str(why)
        for number, turn in enumerate(turns):
            for name in shuffle.sample(sorted(workers), len(workers)):
                if not rows[name].failed:
                    workers[name].take(turn, lists, rows[name])
            print(f"… turn {number + 1} of {len(turns)}", file=sys.stderr, flush=True)
    return list(rows.values())


class Unable(Exception):
    """A contestant cannot take part; the message says why."""


@dataclass
class Worker:
    """A contestant's process, and its endpoint."""

    process: subprocess.Popen[str]
    url: str
    patience_s: float
    versions: dict[str, str] = field(default_factory=dict)

    def read(self) -> dict[str, Any]:
        """Return what the process says next.

        Raises:
            Unable: it says nothing in time, or ended.

        """
        assert self.process.stdout is not None
        line = _line_within(self.process, self.process.stdout, self.patience_s)
        if not line:
            raise Unable(f"said nothing for {self.patience_s:.0f} s, or ended")
        return dict(json.loads(line))

    def take(self, turn: list[int], lists: list[dict[str, Any]], row: Row) -> None:
        """Have some lists ranked, and enter what it took."""
        before = stats(self.url)
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(turn) + "\n")
            self.process.stdin.flush()
            said = self.read()
        except (Unable, OSError) as why:
            row.failed = str(why)
            return
        after = stats(self.url)
        row.failed = said["failed"]
        row.lists += len(said["orders"])
        for key in ("wall_s", "cpu_s", "server_cpu_s"):
            setattr(row, key, getattr(row, key) + said[key])
        for key in ("calls", "refused", "prompt_tokens", "cached_tokens", "completion_tokens"):
            setattr(row, key, getattr(row, key) + after[key] - before[key])
        for mine, told, told_before in (
            (row.malformed, after["malformed"], before["malformed"]),
            (row.prompts, after["prompts"], before["prompts"]),
            (row.mended, said["told"], {}),
        ):
            for kind, count in told.items():
                mine[kind] = mine.get(kind, 0) + count - told_before.get(kind, 0)
        for number, order in zip(turn, said["orders"], strict=False):
            row.run[lists[number]["qid"]] = order


@contextlib.contextmanager
def working(one: Contestant, lists: Path, arguments: argparse.Namespace) -> Iterator[Worker]:
    """Run a contestant and its endpoint.

    Raises:
        Unable: its environment cannot be built, or it does not start.

    """
    python = sys.executable
    if one.environment is not None:
        made = ENVIRONMENTS[one.environment]
        if why := made.build():
            raise Unable(f"cannot be installed: {why}")
        python = str(made.python)
    with simulated(arguments) as url:
        process = subprocess.Popen(
            [python, str(HERE / "peers_worker.py"), one.name, url, str(lists)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(Path(lists).parent / f"{one.name}.log").open("w"),
            text=True,
        )
        worker = Worker(process, url, arguments.patience)
        try:
            try:
                worker.versions = worker.read()["versions"]
            except Unable as why:
                said = (Path(lists).parent / f"{one.name}.log").read_text().strip().splitlines()
                raise Unable(f"does not start: {said[-1][:200] if said else why}") from None
            yield worker
        finally:
            _end(process)


@contextlib.contextmanager
def simulated(arguments: argparse.Namespace) -> Iterator[str]:
    """Run a simulated judge and yield its address."""
    flags = ["--suite", str(LISTS), "--qrels", str(QRELS), "--noise", arguments.noise]
    flags += ["--latency", arguments.latency, "--seed", str(arguments.seed)]
    process = subprocess.Popen(
        [sys.executable, "-m", "podium_server", "eval", "simulate", *flags],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise SystemExit("podium eval simulate does not start")
        address = line.split()[-1].rstrip("/")
        yield address if address.endswith("/v1") else f"{address}/v1"
    finally:
        _end(process)


def stats(url: str) -> dict[str, Any]:
    """Return what an endpoint was asked until now."""
    with urllib.request.urlopen(f"{url.removesuffix('/v1')}/stats", timeout=30) as answer:
        return dict(json.load(answer))


def _line_within(process: subprocess.Popen[str], stream: TextIO, patience_s: float) -> str:
    """Return the next line; nothing where it does not come in time, and the process is ended then."""

    def late(_signal: int, _frame: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, patience_s)
    try:
        return stream.readline()
    except TimeoutError:
        process.kill()
        return ""
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _end(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    else:
        process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# --- the table --------------------------------------------------------------------------------------------------


def show(rows: Sequence[Row], about: dict[str, Any]) -> None:
    paper = Console(width=None if sys.stdout.isatty() else 190, highlight=False)
    paper.print(
        f"{about['lists']} lists of DL19, 100 candidates, window 20 by 10, RankGPT's prompt; judge: noise "
        f"{about['noise']}, {about['latency']}; {about['processors']} processors, load {about['load']:.1f}"
    )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0))
    titles = ("", "calls", "prompt tok", "output tok", "wall s", "ms CPU a call", "server's", "nDCG@10", "malformed")
    for title in (*titles, "mended", "prompt"):
        table.add_column(title, justify="right" if title not in ("", "prompt") else "left")
    for row in rows:
        if not row.lists:
            table.add_row(row.title, "none")
            continue
        mended = ", ".join(f"{count} {kind}" for kind, count in sorted(row.mended.items()))
        table.add_row(
            row.title,
            f"{row.calls:,}" + (f" + {row.refused:,} refused" if row.refused else ""),
            f"{row.prompt_tokens:,}",
            f"{row.completion_tokens:,}",
            f"{row.wall_s:.2f}",
            f"{row.cpu_s / max(1, row.calls) * 1e3:.2f}",
            f"{row.server_cpu_s / max(1, row.calls) * 1e3:.2f}" if row.server_cpu_s else "",
            "" if row.ndcg_at_10 is None else f"{row.ndcg_at_10:.4f}",
            str(sum(row.malformed.values())),
            mended or ("0" if row.name.startswith("podium") else "says nothing"),
            ", ".join(row.prompts),
        )
    paper.print(table)
    for row in rows:
        if row.failed:
            paper.print(f"{row.title}, after {row.lists} lists: {row.failed}", style="red")
        versions = ", ".join(f"{name} {version}" for name, version in row.versions.items())
        paper.print(f"{row.title}: {versions}" + (f"; {row.note}" if row.note else ""), style="dim")


if __name__ == "__main__":
    main()
