"""What `podium optimize` does: calibrate, write, and measure float32, what is served now, and int8 side by side."""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from podium_server.backends.openvino.cards import read_card, read_cross_encoder_card, write_card
from podium_server.backends.openvino.quantize import Quantization, quantize
from podium_server.backends.openvino.runtime import WEIGHTS_FILE, native_precision
from podium_server.backends.openvino.sources import kind_of, resolve
from podium_server.backends.openvino.tokens import TOKENIZER_FILE
from podium_server.cli import console, measuring_models
from podium_server.errors import InvalidRequest
from podium_server.jobs import lists
from podium_server.jobs.labelled import read_qrels
from podium_server.jobs.ndcg import ndcg

_PASSES = 3
"""The fastest counts: whatever else the machine does can only slow a pass down."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command was asked for.

    Args:
        out: the folder to write.
        kind: of the model; None for what its files say.
        how: what becomes int8.
        samples: pairs or texts to calibrate with.
        lists: to measure on, at most.

    """

    out: Path
    kind: str | None
    how: Quantization
    samples: int
    lists: int


@dataclass(frozen=True, slots=True)
class Graded:
    """A list with the grades of its candidates, by place; None for those that nobody judged."""

    qid: str
    query: str
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    grades: tuple[float | None, ...]


@dataclass(slots=True)
class Row:
    """One way to run the model, measured."""

    name: str
    folder: Path
    precision: Literal["f32", "bf16"]
    scores: list[NDArray[np.float32]] = field(default_factory=list)
    per_s: float = 0.0
    rss_mib: float | None = None


def optimize(model: str, wanted: Wanted, calibrate: str, measure: str | None, labels: Path | None) -> None:
    """Write the folder, and print the table.

    Raises:
        ConfigInvalid: the model cannot be loaded or quantized.
        InvalidRequest: the lists cannot be used, or the folder is there already.
        OSError: a file cannot be read or written.

    """
    if wanted.out.exists():
        raise InvalidRequest("--out", f"{wanted.out} is there already; give another folder")
    kind = wanted.kind or kind_of(model)
    source = resolve(model, kind=kind)  # type: ignore[arg-type]  # a choice of the command, or of `kind_of`
    given = read_lists(calibrate)
    measured_on = read_lists(measure, limit=wanted.lists) if measure is not None else given[1::2][: wanted.lists]
    seen = given if measure is not None else given[0::2]
    if not measured_on:
        raise InvalidRequest("--calibrate", f"{calibrate} has one list alone; give others with --measure")
    judged = read_qrels(labels) if labels is not None else None
    remark = console.stderr()
    remark.print(f"calibrating with {wanted.samples} of {len(seen)} lists, measuring on {len(measured_on)}")
    made = _written(source, kind, wanted, seen, model)
    try:
        rows = _measured(source, made, kind, measured_on)
        lines = report(rows, kind, measured_on, judged)
        _card(source, made, kind, wanted, model, lines)
        made.rename(wanted.out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    console.stdout().print(_table(lines))
    remark.print(f"written to {wanted.out}")


# --- lists and labels -------------------------------------------------------------------------------------------


def read_lists(path: str, *, limit: int | None = None) -> list[Graded]:
    """Return the lists of a file, with the grades (`rel`) that their candidates have.

    Raises:
        InvalidRequest: a line is no list, or none is there.
        OSError: the file cannot be read.

    """
    grades: list[tuple[float | None, ...]] = []

    def parse(raw: bytes, number: int, seal: int) -> lists.Line:
        line = lists.parse_line(raw, number, seal)
        if isinstance(line, lists.CandidateList):
            grades.append(tuple(_grade(each.get("rel")) for each in json.loads(raw)["candidates"]))
        return line

    found = []
    for line in lists.opened(path, limit=limit, parse=parse):
        if isinstance(line, lists.BadLine):
            raise InvalidRequest(f"{path}:{line.line}", line.message)
        if line.texts:
            found.append(Graded(str(line.qid), line.query, line.ids, line.texts, grades[-1]))
    if not found:
        raise InvalidRequest(path, "has no list with candidates")
    return found


def _grade(given: Any) -> float | None:
    return float(given) if isinstance(given, int | float) and not isinstance(given, bool) else None


# --- making -----------------------------------------------------------------------------------------------------


def _written(source: Path, kind: str, wanted: Wanted, seen: Sequence[Graded], model: str) -> Path:
    """Return a folder beside the wanted one with the quantized model, and no card yet."""
    made = wanted.out.with_name(f".{wanted.out.name}.{os.getpid()}.{secrets.token_hex(4)}")
    made.mkdir(parents=True)
    try:
        samples = _samples(source, kind, seen, wanted.samples) if wanted.how.activations else []
        quantize(source, made, samples, wanted.how)
        for name in (TOKENIZER_FILE, "LICENSE", "NOTICE"):
            if (source / name).is_file():
                shutil.copyfile(source / name, made / name)
        _card(source, made, kind, wanted, model, [])
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return made


def _samples(source: Path, kind: str, seen: Sequence[Graded], count: int) -> list[dict[str, NDArray[np.int64]]]:
    """Return inputs of single pairs or texts, of lists and places by chance, the same at every run."""
    chance = random.Random(0)
    places = [(i, j) for i, each in enumerate(seen) for j in range(len(each.texts))]
    chosen = chance.sample(places, min(count, len(places)))
    if kind == "cross-encoder":
        from podium_server.backends.cross_encoders.openvino import OpenVinoCrossEncoder

        scorer = OpenVinoCrossEncoder(str(source), precision="f32", capacity=measuring_models.UNMEASURED)
        return [scorer.inputs(scorer.pairs(seen[i].query, [seen[i].texts[j]])) for i, j in chosen]
    from podium_server.backends.encoders.openvino import OpenVinoEncoder

    encoder = OpenVinoEncoder(str(source))
    # Queries are a third: they are short, and their ranges are others.
    return [
        encoder.inputs([seen[i].query if place % 3 == 0 else seen[i].texts[j]]) for place, (i, j) in enumerate(chosen)
    ]


def _card(source: Path, made: Path, kind: str, wanted: Wanted, model: str, lines: Sequence[Sequence[str]]) -> None:
    said: dict[str, str | int] = {"kind": kind, "made_of": model, "quantization": str(wanted.how)}
    if kind == "cross-encoder":
        of_pair = read_cross_encoder_card(source)
        said |= {"max_tokens": of_pair.max_tokens}
        said |= {} if of_pair.score_scale is None else {"score_scale": of_pair.score_scale}
    else:
        card = read_card(source)
        said |= {"max_tokens": card.max_tokens, "pooling": card.pooling}
        said |= {"query_prefix": card.query_prefix, "document_prefix": card.document_prefix}
    comments = ("Made by podium optimize. Measured then:", *("  ".join(line) for line in lines))
    write_card(made, said, comments=comments)


# --- measuring --------------------------------------------------------------------------------------------------


def _measured(source: Path, made: Path, kind: str, measured_on: Sequence[Graded]) -> list[Row]:
    """Return the rows, each run in a process of its own, whose memory is its own, pass by pass in turn."""
    now = native_precision("auto")
    rows = [Row("float32", source, "f32"), Row("int8", made, now)]
    if now != "f32":
        rows.insert(1, Row(now, source, now))
    work = [(each.query, each.texts) for each in measured_on]
    with ExitStack() as stack:
        pools = [stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn"))) for _ in rows]
        for row, pool in zip(rows, pools, strict=True):
            pool.submit(measuring_models.load, kind, str(row.folder), row.precision).result()
        for _ in range(_PASSES):
            for row, pool in zip(rows, pools, strict=True):
                row.scores, per_s, row.rss_mib = pool.submit(measuring_models.scored, work).result()
                row.per_s = max(row.per_s, per_s)
    return rows


def report(
    rows: Sequence[Row], kind: str, measured_on: Sequence[Graded], judged: dict[str, dict[str, float]] | None
) -> list[list[str]]:
    """Return the table: a line of names, then one for each row."""
    quality = _judgments(measured_on, judged)
    header = ["", *(["nDCG@10"] if quality else []), "rank correlation", "largest difference"]
    header += ["pairs/s" if kind == "cross-encoder" else "texts/s", "weights MB", "memory MiB"]
    lines = [header]
    exact = rows[0].scores
    for row in rows:
        line = [row.name]
        if quality:
            line.append(f"{fmean(score(row.scores[i]) for i, score in quality.items()):.4f}")
        correlations = [spearman(ours, want) for ours, want in zip(row.scores, exact, strict=True) if len(want) > 1]
        line.append(f"{fmean(correlations):.4f}" if correlations else "-")
        line.append(f"{max(float(np.abs(a - b).max()) for a, b in zip(row.scores, exact, strict=True)):.4f}")
        line.append(f"{row.per_s:.1f}")
        line.append(f"{(row.folder / WEIGHTS_FILE).stat().st_size / 1e6:.1f}")
        line.append("-" if row.rss_mib is None else f"{row.rss_mib:.0f}")
        lines.append(line)
    return lines


def _judgments(
    measured_on: Sequence[Graded], judged: dict[str, dict[str, float]] | None
) -> dict[int, Callable[[NDArray[np.float32]], float]]:
    """Return, for each list with something relevant, what makes an nDCG of its scores."""

    def measure(grades: list[float], known: list[float]) -> Callable[[NDArray[np.float32]], float]:
        # Of equal scores the first stays before.
        return lambda scores: ndcg([grades[i] for i in np.argsort(-scores, kind="stable")], known, 10)

    found = {}
    for place, each in enumerate(measured_on):
        of_query = judged.get(each.qid, {}) if judged is not None else None
        own = [of_query.get(docid) for docid in each.ids] if of_query is not None else list(each.grades)
        grades = [grade or 0.0 for grade in own]
        known = list(of_query.values()) if of_query is not None else grades
        if any(grade > 0 for grade in known):
            found[place] = measure(grades, known)
    return found


def spearman(ours: NDArray[np.float32], want: NDArray[np.float32]) -> float:
    """Return the rank correlation of two lists of scores, ties sharing their mean rank; 1 where both are constant."""
    a, b = (_ranks(scores) for scores in (ours, want))
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size else float(np.array_equal(a, b))


def _ranks(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    _, groups, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middles: NDArray[np.float64] = ends - (counts - 1) / 2
    return middles[groups]


def _table(lines: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(lines[0]):
        table.add_column(name, justify="left" if place == 0 else "right")
    for line in lines[1:]:
        table.add_row(*line)
    return table
