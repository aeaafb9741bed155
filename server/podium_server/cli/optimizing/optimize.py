"""What `podium optimize` does: calibrate, write, and have float32, what is served now, and int8 measured."""

from __future__ import annotations

import os
import random
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from podium_server.backends.openvino.cards import read_card, read_cross_encoder_card, write_card
from podium_server.backends.openvino.quantize import Quantization, quantize
from podium_server.backends.openvino.sources import kind_of, resolve
from podium_server.backends.openvino.tokens import TOKENIZER_FILE
from podium_server.cli.display import console
from podium_server.cli.optimizing.graded import Graded, read_lists
from podium_server.cli.optimizing.measured import measured, report, table_of
from podium_server.cli.optimizing.measured_process import UNMEASURED
from podium_server.errors import InvalidRequest
from podium_server.jobs.qrels import read_qrels


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
        rows = measured(source, made, kind, measured_on)
        lines = report(rows, kind, measured_on, judged)
        _card(source, made, kind, wanted, model, lines)
        made.rename(wanted.out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    console.stdout().print(table_of(lines))
    remark.print(f"written to {wanted.out}")


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

        scorer = OpenVinoCrossEncoder(str(source), precision="f32", capacity=UNMEASURED)
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
