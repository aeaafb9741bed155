"""One engine of bench/crossencoder.py, in a process of its own: loads a model once, and scores the lists it is told to.

    python bench/crossencoder_engines.py ENGINE FOLDER LISTS

Says `ready` and facts about itself; a line with the number of a list is answered by a line of seconds and scores, an
empty line by the peak of its memory, and it ends. It runs in the environment of the peer: nothing but the engine's own
libraries and the standard library is imported here.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

Score = Callable[[str, list[str]], list[float]]


def sentence_transformers(folder: str) -> Score:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(folder, device="cpu")
    return lambda query, passages: model.predict([(query, p) for p in passages], show_progress_bar=False).tolist()


def sentence_transformers_openvino(folder: str) -> Score:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(f"{folder}/openvino-peer", device="cpu", backend="openvino")
    return lambda query, passages: model.predict([(query, p) for p in passages], show_progress_bar=False).tolist()


def infinity(folder: str) -> Score:
    import asyncio

    from infinity_emb import AsyncEngineArray, EngineArgs

    loop = asyncio.new_event_loop()
    given = EngineArgs(model_name_or_path=folder, engine="torch", device="cpu", model_warmup=False)
    engine = AsyncEngineArray.from_args([given])[0]
    loop.run_until_complete(engine.astart())

    def score(query: str, passages: list[str]) -> list[float]:
        ranked, _ = loop.run_until_complete(engine.rerank(query=query, docs=passages, raw_scores=True))
        scores = [0.0] * len(passages)
        for one in ranked:
            scores[one.index] = float(one.relevance_score)
        return scores

    return score


def flashrank(folder: str) -> Score:
    from flashrank import Ranker, RerankRequest

    # The model's own name decides the file that it reads; the folder is made by bench/crossencoder.py.
    ranker = Ranker(model_name="ms-marco-MiniLM-L-12-v2", cache_dir=folder, log_level="ERROR")

    def score(query: str, passages: list[str]) -> list[float]:
        given = [{"id": i, "text": text} for i, text in enumerate(passages)]
        scores = [0.0] * len(passages)
        for one in ranker.rerank(RerankRequest(query=query, passages=given)):
            scores[one["id"]] = float(one["score"])
        return scores

    return score


def flashrank_f32(folder: str) -> Score:
    return flashrank(f"{folder}/flashrank-f32")


def flashrank_int8(folder: str) -> Score:
    return flashrank(f"{folder}/flashrank-int8")


def onnxruntime_fused(folder: str) -> Score:
    """Run the graph that onnxruntime's own optimizer fuses, as well as we know how: sorted, in batches of 8."""
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    session = onnxruntime.InferenceSession(f"{folder}/fused/model.onnx")
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.no_padding()
    tokenizer.enable_truncation(512)

    def score(query: str, passages: list[str]) -> list[float]:
        pairs = tokenizer.encode_batch([(query, passage) for passage in passages])
        order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i].ids))
        scores = np.empty(len(pairs), np.float32)
        for start in range(0, len(order), 8):
            chunk = order[start : start + 8]
            given = np.zeros((3, len(chunk), len(pairs[chunk[0]].ids)), np.int64)
            for row, i in enumerate(chunk):
                one = pairs[i]
                given[:, row, : len(one.ids)] = one.ids, one.attention_mask, one.type_ids
            names = ("input_ids", "attention_mask", "token_type_ids")
            scores[chunk] = session.run(None, dict(zip(names, given, strict=True)))[0][:, 0]
        return scores.tolist()

    return score


def podium(folder: str, precision: str) -> Score:
    """Drive the engine as its queue does: batches within its capacity, the longest first, one a lane."""
    from concurrent.futures import ThreadPoolExecutor

    from podium_server.backends.cross_encoders.openvino import OpenVinoCrossEncoder

    encoder = OpenVinoCrossEncoder(folder, precision=precision)
    capacity = encoder.capacity
    lanes = ThreadPoolExecutor(capacity.lanes)

    def score(query: str, passages: list[str]) -> list[float]:
        pairs = encoder.pairs(query, passages)
        order = sorted(range(len(pairs)), key=lambda i: -pairs[i].tokens)
        batches = []
        while order:
            count = max(1, min(capacity.pairs, capacity.padded_tokens // pairs[order[0]].tokens))
            batches.append(order[:count])
            order = order[count:]
        scores = [0.0] * len(pairs)
        for batch, given in zip(
            batches, lanes.map(lambda b: encoder.score([pairs[i] for i in b]), batches), strict=True
        ):
            for i, one in zip(batch, given, strict=True):
                scores[i] = float(one)
        return scores

    return score


def podium_torch(folder: str) -> Score:
    from podium_server.backends.cross_encoders.sentence_transformers import SentenceTransformersCrossEncoder

    encoder = SentenceTransformersCrossEncoder(folder, device="cpu")

    def score(query: str, passages: list[str]) -> list[float]:
        pairs = encoder.pairs(query, passages)
        order = sorted(range(len(pairs)), key=lambda i: -pairs[i].tokens)
        scores = [0.0] * len(pairs)
        while order:
            count = max(1, min(encoder.capacity.pairs, encoder.capacity.padded_tokens // pairs[order[0]].tokens))
            for i, one in zip(order[:count], encoder.score([pairs[i] for i in order[:count]]), strict=True):
                scores[i] = float(one)
            order = order[count:]
        return scores

    return score


def limit(folder: str, precision: str) -> Score:
    """Do nothing but the model's products: its "score" is GFLOP/s.

    The six products of a layer that have weights (query, key, value and output: width × width; width × inner; inner ×
    width), for the tokens of a batch of eight typical pairs, twelve layers in a chain, one stream a core: what OpenVINO
    (oneDNN) gives at best on shapes like these, without softmax, normalization, attention's own products or a
    tokenizer. Memory and caches are met as the model meets them.
    """
    import numpy as np
    import openvino
    from openvino import opset13 as ops

    tokens, layers = 8 * 134, 12
    config = json.loads((Path(folder) / "config.json").read_text())
    width, inner = config["hidden_size"], config["intermediate_size"]
    rng = np.random.default_rng(0)
    shapes = [(width, width)] * 4 + [(width, inner), (inner, width)]

    def in_int8(node: Any, high: float) -> Any:
        bounds = [np.float32(sign * high) for sign in (-1, 1, -1, 1)]
        return ops.fake_quantize(node, *bounds, 255)

    given = ops.parameter([tokens, width], np.float32)
    node = given
    for rows, columns in shapes * layers:
        weights = ops.constant(rng.normal(0, rows**-0.5, (rows, columns)).astype(np.float32))
        if precision == "int8":
            node, weights = in_int8(node, 4.0), in_int8(weights, 4 * rows**-0.5)
        node = ops.matmul(node, weights, False, False)
    core, threads = openvino.Core(), len(os.sched_getaffinity(0))
    how = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": threads, "INFERENCE_NUM_THREADS": threads}
    hint = "f32" if precision == "f32" else "bf16"
    model = core.compile_model(openvino.Model([node], [given]), "CPU", {**how, "INFERENCE_PRECISION_HINT": hint})
    requests = [model.create_infer_request() for _ in range(threads)]
    data = rng.normal(0, 1, (tokens, width)).astype(np.float32)
    flop = 2 * tokens * layers * sum(rows * columns for rows, columns in shapes)

    def score(query: str, passages: list[str]) -> list[float]:
        del query, passages
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < 0.4:
            for request in requests:
                request.start_async({0: data})
            for request in requests:
                request.wait()
            done += len(requests)
        return [done * flop / (time.perf_counter() - began) / 1e9]

    return score


ENGINES: dict[str, tuple[Callable[[str], Score], tuple[str, ...]]] = {
    "sentence-transformers": (sentence_transformers, ("sentence-transformers", "transformers", "torch")),
    "sentence-transformers-openvino": (
        sentence_transformers_openvino,
        ("sentence-transformers", "transformers", "optimum-intel", "openvino"),
    ),
    "infinity": (infinity, ("infinity-emb", "transformers", "torch")),
    "flashrank-f32": (flashrank_f32, ("FlashRank", "onnxruntime")),
    "flashrank-int8": (flashrank_int8, ("FlashRank", "onnxruntime")),
    "onnxruntime-fused": (onnxruntime_fused, ("onnxruntime",)),
    "podium-f32": (lambda folder: podium(folder, "f32"), ("podium", "openvino")),
    "podium-bf16": (lambda folder: podium(folder, "bf16"), ("podium", "openvino")),
    "podium-int8": (lambda folder: podium(f"{folder}/podium-int8", "auto"), ("podium", "openvino")),
    "podium-torch": (podium_torch, ("sentence-transformers", "torch")),
    "limit-f32": (lambda folder: limit(folder, "f32"), ("openvino",)),
    "limit-bf16": (lambda folder: limit(folder, "bf16"), ("openvino",)),
    "limit-int8": (lambda folder: limit(folder, "int8"), ("openvino",)),
}


def main() -> None:
    engine, folder, lists_file = sys.argv[1:]
    # What libraries print must not stand between our lines.
    said = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    lists = json.loads(Path(lists_file).read_text())
    load, packages = ENGINES[engine]
    score = load(folder)
    warm = lists[0]
    score(warm["query"], warm["passages"][:16])
    said.write(f"ready {json.dumps({name: _version(name) for name in packages})}\n")
    for line in sys.stdin:
        if not line.strip():
            break
        one = lists[int(line)]
        began = time.perf_counter()
        scores = score(one["query"], one["passages"])
        said.write(json.dumps([time.perf_counter() - began, scores]) + "\n")
    status = Path("/proc/self/status").read_text()
    peak_kb = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    said.write(f"{int(peak_kb) * 1024}\n")
    said.flush()
    os._exit(0)  # some libraries' threads do not end


def _version(package: str) -> str:
    try:
        return version(package)
    except ImportError:
        return "?"


if __name__ == "__main__":
    main()
