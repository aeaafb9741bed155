"""A cross-encoder behind gRPC under load, from a quarter of what it can do to three times as much.

    python bench/serving.py [--quick] [--model FOLDER]

`podium serve` runs as anybody runs it, on a socket of this machine, with the default limits and without its memory for
scores; serving_load.py asks it, in a process of its own. Texts are the passages of the DL19 lists.

What it can do is measured first, by a closed loop. Then come Poisson arrivals (as many as the rate promises, at times
drawn evenly, which is a Poisson process given its count) at each rate, for requests of 20 and of 100 documents in
turns and the rates in no order, so that what else the machine does falls on all of them. A refused request is not
sent again.

Goodput: documents of complete answers within the deadline, from the first to the last answer that came while requests
still came, without the first seconds. Latencies count from when a request was meant to be sent. p99 of a few dozen
requests is their slowest.

The mix: requests of ten documents at a steady rate, alone, and then with one in a hundred that has 2,000. Those are
cut to 120 characters a document, as lists of titles are: a hundredth of the requests and not quite half of the work,
with four of them in the time that there is. Alone and mixed the small ones come at the same times.

The model is the first of: --model, PODIUM_BENCH_CROSS_ENCODER, a cross-encoder that ships with Podium, and the one of
bench/crossencoder.py (all-MiniLM-L6-v2's body under a random head: speed is its shape's).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import crossencoder
from rich.console import Console
from run import DATA, ROOT, _run
from serving_load import Kind, Sent, texts_of
from serving_report import WAIT_S_MAX, Memory, Step, quantile, report

WORK = ROOT / ".podium" / "bench-serving"
LISTS = WORK / "lists.json"
RESULTS = ROOT / "bench" / "results"
SOURCES = os.pathsep.join(str(ROOT / folder) for folder in ("proto", "strategies", "server"))
PLOTS = ("matplotlib>=3.9,<4",)

CHARACTERS_PER_TOKEN = 4.5
"""Of the passages, in the tokens of BERT."""
MIX_LOAD = 0.75
"""Of the capacity, with the huge ones."""
KINDS = {
    "20": Kind(20, variants=150, timeout_s=10),
    "100": Kind(100, variants=60, timeout_s=10),
    "small": Kind(10, variants=200, timeout_s=10),
    "huge": Kind(2_000, variants=4, timeout_s=120, characters=120),
}


@dataclass(frozen=True)
class Plan:
    """How long everything takes."""

    factors: tuple[float, ...] = (1, 0.25, 2, 0.5, 3, 0.75, 1.25, 0.9, 1.5)
    seconds: tuple[tuple[str, float], ...] = (("20", 15), ("100", 22))
    lead_s: float = 3
    closed_s: float = 10
    mix_s_max: float = 105
    alone: float = 0.5
    """Of the mix's time."""
    huge: int = 4
    per_huge: int = 100
    """Requests of the mix, of which one is huge."""


QUICK = Plan(
    factors=(3, 0.5, 1.5), seconds=(("20", 2), ("100", 2)), lead_s=0.5, closed_s=2, mix_s_max=0, huge=1, per_huge=10
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a minute, to see that it works; keeps no result")
    parser.add_argument("--model", default=os.environ.get("PODIUM_BENCH_CROSS_ENCODER"), metavar="FOLDER")
    arguments = parser.parse_args()
    paper = Console(width=None if sys.stdout.isatty() else 130, highlight=False)
    plan, results = (QUICK, WORK) if arguments.quick else (Plan(), RESULTS)
    WORK.mkdir(parents=True, exist_ok=True)
    lists = read_lists()
    model = arguments.model or shipped() or untrained(paper)
    plots = plot_environment(paper)
    began = time.monotonic()
    with serving(model) as (target, watch), asking(target) as ask:
        can = {kind: capacity(ask, kind, plan, paper) for kind, _ in plan.seconds}
        warm = len(watch.seen)
        steps = [
            one_rate(ask, kind, factor, can[kind], seconds, plan.lead_s, watch)
            for factor in plan.factors
            for kind, seconds in plan.seconds
        ]
        paper.print(f"… the rates: {time.monotonic() - began:.0f} s so far", style="dim")
        mixed = the_mix(ask, lists, can["20"], plan)
        paper.print(f"… all: {time.monotonic() - began:.0f} s", style="dim")
        memory = watch.seen[warm:]
    steps.sort(key=lambda step: (int(step.kind), step.factor))
    said = report(model, can, steps, mixed, memory, paper)
    results.mkdir(exist_ok=True)
    (results / "serving.md").write_text("\n".join([*said, ""]))
    raw = {"capacity": can, "steps": [asdict(step) for step in steps], "mix": mixed, "wait_s_max": WAIT_S_MAX}
    (WORK / "serving.json").write_text(json.dumps(raw))
    if isinstance(plots, str):
        paper.print(f"no plot: matplotlib {plots}", style="yellow")
        return
    _run([plots, ROOT / "bench" / "serving_plot.py", WORK / "serving.json", results / "serving.png"])
    paper.print(f"copies are in {results.relative_to(ROOT)}: serving.md, serving.png", style="dim")


# --- what is asked ----------------------------------------------------------------------------------------------


def read_lists() -> list[dict[str, Any]]:
    """Return the queries and passages of DL19, and write them where the process that asks finds them."""
    path = DATA / "eval" / "dl19_bm25_top100.jsonl.gz"
    if not path.exists():
        raise SystemExit(f"{path} is not here; PODIUM_DATA names the folder of the data")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        read = [json.loads(line) for line in file]
    lists = [{"query": one["query"], "passages": [c["text"] for c in one["candidates"]]} for one in read]
    LISTS.write_text(json.dumps(lists))
    return lists


def shipped() -> str | None:
    """Return the name of a cross-encoder that ships with Podium."""
    from podium_server.backends.openvino.cards import kind_said
    from podium_server.backends.openvino.sources import shipped_models

    folder = ROOT / "server" / "podium_server" / "models"
    return next((name for name in shipped_models() if kind_said(folder / name) == "cross-encoder"), None)


def untrained(paper: Console) -> str:
    """Return the folder of the six-layer model of bench/crossencoder.py, made where it is not there yet."""
    if not (crossencoder.WORK / "l6" / "model.safetensors").exists():
        pythons = {name: crossencoder.environment(name, paper) for name in crossencoder.needed(())}
        crossencoder.read_lists(100)  # what it is calibrated with
        crossencoder.made("l6", None, (), pythons, paper)
    return str(crossencoder.WORK / "l6")


def plot_environment(paper: Console) -> Path | str:
    """Return the Python that draws: matplotlib is nothing that Podium or its tests need."""
    crossencoder.ENVIRONMENTS["plots"] = PLOTS
    return crossencoder.environment("plots", paper)


class Watch(threading.Thread):
    """Looks at a process twice a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.folder = Path(f"/proc/{pid}")
        self.seen: list[Memory] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            try:
                files = len(list((self.folder / "fd").iterdir()))
                said = dict(line.split(":\t", 1) for line in (self.folder / "status").read_text().splitlines())
            except OSError:
                return
            if "VmRSS" not in said:  # it has ended, and nobody has taken note yet
                return
            rss_mb = int(said["VmRSS"].split()[0]) * 1024 / 1e6
            self.seen.append(Memory(time.monotonic(), rss_mb, files, int(said["Threads"])))
            self.over.wait(0.5)


@contextmanager
def serving(model: str) -> Iterator[tuple[str, Watch]]:
    """Run `podium serve` over one pipeline of one cross-encoder."""
    config, log = WORK / "podium.toml", WORK / "server.log"
    config.write_text(
        '[server]\ndefault_pipeline = "cross"\n\n'
        f'[models.cross]\nbackend = "cross-encoder"\nmodel = {json.dumps(model)}\ncache_mib = 0\n\n'
        '[pipelines.cross]\nstages = [{ strategy = "pointwise", model = "cross" }]\n'
    )
    command = [sys.executable, "-m", "podium_server", "serve", "--config", str(config), "--port", "0"]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, "PYTHONPATH": SOURCES}
        )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        if not said.startswith("listening on "):
            raise SystemExit(f"the server did not start: {log.read_text().strip().splitlines()[-1:]}")
        watch = Watch(process.pid)
        watch.start()
        yield said.split()[-1], watch
        watch.over.set()
    finally:
        process.terminate()
        process.wait()


class Ask:
    """The process that asks: a task in, what became of each request out."""

    def __init__(self, target: str) -> None:
        kinds = json.dumps({name: asdict(kind) for name, kind in KINDS.items()})
        command = [sys.executable, str(ROOT / "bench" / "serving_load.py"), target, str(LISTS), kinds]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._line()

    def __call__(self, **task: Any) -> list[Sent]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        return [Sent(**one) for one in json.loads(self._line())]

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the process that asks has ended; what it said stands above")
        return line


@contextmanager
def asking(target: str) -> Iterator[Ask]:
    ask = Ask(target)
    try:
        yield ask
    finally:
        ask.process.terminate()
        ask.process.wait()


# --- measuring --------------------------------------------------------------------------------------------------


def capacity(ask: Ask, kind: str, plan: Plan, paper: Console) -> float:
    """Return documents/s with always something to do and nobody refused: callers that wait for their answers."""
    documents = KINDS[kind].documents
    callers = max(3, 160 // documents)
    ask(kind=kind, callers=callers, seconds=plan.closed_s / 2)  # shapes that OpenVINO meets for the first time
    done = ask(kind=kind, callers=callers, seconds=plan.closed_s)
    # To the very last answer: what the callers leave behind is in the queue, and keeps it as busy as before.
    ended_at = max(one.ended_at for one in done)
    rate = per_second(done, min(plan.lead_s, plan.closed_s / 4), ended_at) * documents
    if not rate:
        raise SystemExit(f"of {len(done)} requests none was answered: { {one.code for one in done} }")
    paper.print(f"… {documents} documents a request: {rate:.1f} documents/s by {callers} callers", style="dim")
    return rate


def per_second(sent: Sequence[Sent], begin_s: float, end_s: float) -> float:
    """Return complete answers a second, from the first to the last that came within a window."""
    ends = sorted(one.ended_at for one in sent if one.code == "OK" and begin_s <= one.ended_at <= end_s)
    if len(ends) < 2 or ends[-1] == ends[0]:
        return len(ends) / (end_s - begin_s)
    return (len(ends) - 1) / (ends[-1] - ends[0])


def arrivals(count: int, seconds: float, seed: str) -> list[float]:
    """Return the times of a Poisson process that has so many events in so many seconds."""
    chance = random.Random(seed)
    return sorted(chance.uniform(0, seconds) for _ in range(count))


def one_rate(ask: Ask, kind: str, factor: float, can: float, seconds: float, lead_s: float, watch: Watch) -> Step:
    documents = KINDS[kind].documents
    count = max(2, round(factor * can / documents * seconds))
    sent = ask(arrivals=[(at, kind) for at in arrivals(count, seconds, f"{kind} {factor}")])
    answered = [one.took_s * 1e3 for one in sent if one.code == "OK"]
    refused = [one for one in sent if one.code == "RESOURCE_EXHAUSTED"]
    others = [one.code for one in sent if one.code not in ("OK", "RESOURCE_EXHAUSTED")]
    rate = per_second(sent, lead_s, seconds)
    return Step(
        kind=kind,
        documents=documents,
        factor=factor,
        offered=count * documents / seconds,
        goodput=rate * documents,
        requests_per_s=rate,
        sent=count,
        refused=len(refused),
        others={code: others.count(code) for code in sorted(set(others))},
        p50_ms=quantile(answered, 0.5),
        p99_ms=quantile(answered, 0.99),
        refused_ms=tuple(one.took_s * 1e3 for one in refused),
        hint_s=statistics.median([one.retry_s or 0.0 for one in refused] or [0.0]),
        rss_mb=watch.seen[-1].rss_mb,
        late_ms=quantile([one.late_s * 1e3 for one in sent], 0.99),
    )


def the_mix(ask: Ask, lists: list[dict[str, Any]], can: float, plan: Plan) -> dict[str, Any]:
    """Ask small requests alone, and with one huge one in a hundred."""

    def tokens(kind: str) -> float:
        """Return about the tokens of a request, special ones included."""
        some = texts_of(lists, KINDS[kind])[:40]
        return statistics.mean(
            sum(len(query) + len(text) for text in texts) / CHARACTERS_PER_TOKEN + 3 * len(texts)
            for query, texts in some
        )

    small, huge = tokens("small"), tokens("huge")
    tokens_per_s = MIX_LOAD * can * tokens("20") / KINDS["20"].documents
    # As many huge ones as there is time for, each with its small ones.
    seconds = ((plan.per_huge - 1) * small + huge) / tokens_per_s
    number = min(plan.huge, max(1, int(plan.mix_s_max / seconds)))
    count, seconds = number * plan.per_huge, number * seconds
    times = arrivals(count, seconds, "mix")
    # One in each stretch of equal length, early enough for small ones to come while it is at work.
    chance = random.Random("huge")
    places = {int(plan.per_huge * (part + chance.uniform(0.05, 0.4))) for part in range(number)}
    kinds = ["huge" if place in places else "small" for place in range(count)]
    mixed = list(zip(times, kinds, strict=True))
    until_s = plan.alone * seconds
    alone = ask(arrivals=[(at, kind) for at, kind in mixed if kind == "small" and at < until_s])
    together = ask(arrivals=mixed)
    return {
        "alone_ms": [one.took_s * 1e3 for one in alone if one.code == "OK"],
        "mixed_ms": [one.took_s * 1e3 for one in together if one.code == "OK" and one.kind == "small"],
        "huge_ms": [one.took_s * 1e3 for one in together if one.code == "OK" and one.kind == "huge"],
        "alone_failed": sum(one.code != "OK" for one in alone),
        "mixed_failed": sum(one.code != "OK" for one in together if one.kind == "small"),
        "huge": number,
        "requests": count,
        "seconds": seconds,
        "load": MIX_LOAD,
        "huge_work": huge / (huge + (plan.per_huge - 1) * small),
    }


if __name__ == "__main__":
    main()
