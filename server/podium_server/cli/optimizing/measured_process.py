"""Runs a model in a process of its own, so that its memory is known: what `podium optimize` measures with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from podium_server.backends.cross_encoders.cross_encoder import Capacity, CrossEncoder, Pair

UNMEASURED = Capacity(lanes=1, padded_tokens=1024, pairs=16, tokens_per_s=1.0)
"""For a model of which nobody asks how fast it is."""

_loaded: list[tuple[str, Any]] = []


def load(kind: str, folder: str, precision: Literal["f32", "bf16"]) -> None:
    """Load the model of this process."""
    if kind == "cross-encoder":
        from podium_server.backends.cross_encoders.openvino import OpenVinoCrossEncoder

        _loaded.append((kind, OpenVinoCrossEncoder(folder, precision=precision)))
    else:
        from podium_server.backends.encoders.openvino import OpenVinoEncoder

        _loaded.append((kind, OpenVinoEncoder(folder, precision=precision)))


def scored(
    work: Sequence[tuple[str, Sequence[str]]],
) -> tuple[list[NDArray[np.float32]], float, float | None]:
    """Return the scores of each list, pairs (or texts) a second, and the most memory in MiB; None where unknown."""
    [(kind, model)] = _loaded
    begun = time.perf_counter()
    if kind == "cross-encoder":
        scores = _of_pairs(model, work)
    else:
        scores = []
        for query, texts in work:
            vectors = model.encode_documents(texts).vectors
            scores.append(vectors @ model.encode_queries([query]).vectors[0])
    per_s = sum(len(texts) for _, texts in work) / (time.perf_counter() - begun)
    return scores, per_s, _most_memory_mib()


def _of_pairs(model: CrossEncoder, work: Sequence[tuple[str, Sequence[str]]]) -> list[NDArray[np.float32]]:
    scores = [np.empty(len(texts), np.float32) for _, texts in work]
    pairs = [(i, j, pair) for i, (query, texts) in enumerate(work) for j, pair in enumerate(model.pairs(query, texts))]
    pairs.sort(key=lambda each: -each[2].tokens)
    batches: list[list[tuple[int, int, Pair]]] = []
    start = 0
    while start < len(pairs):
        most = model.capacity.padded_tokens // pairs[start][2].tokens
        count = max(1, min(most, model.capacity.pairs))
        batches.append(pairs[start : start + count])
        start += count
    with ThreadPoolExecutor(model.capacity.lanes) as lanes:
        done = lanes.map(lambda batch: model.score([pair for _, _, pair in batch]), batches)
        for batch, of_batch in zip(batches, done, strict=True):
            for (i, j, _), score in zip(batch, of_batch, strict=True):
                scores[i][j] = score
    return scores


def _most_memory_mib() -> float | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)
