"""Compiles graphs for the processors of this machine, and tells failures apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import openvino

from podium_server.backends.openvino.tokens import TOKENIZER_FILE
from podium_server.errors import BackendDown, ConfigInvalid

Precision: TypeAlias = Literal["auto", "f32", "bf16"]

MODEL_FILE = "openvino_model.xml"
WEIGHTS_FILE = "openvino_model.bin"

LENGTH_STEP = 8
"""Lengths are padded to a multiple of it: OpenVINO prepares something for every shape that it meets."""

SHAPES_KEPT = 64
"""Of what it prepared, so much is kept. OpenVINO's own bound is 5,000, and an int8 model grew by 6 MB a list of 100 new
documents: after 43 lists the process had 548 MB so, 374 with 32 kept and 428 with 128, at the same speed."""


def stepped(longest: int, max_tokens: int) -> int:
    """Return the length to which a batch is padded whose longest text has that many tokens."""
    return min(-(-longest // LENGTH_STEP) * LENGTH_STEP, max_tokens)


def many_streams(threads: int) -> dict[str, Any]:
    """Return the settings for one batch a thread: threads that share a batch wait for each other at every layer."""
    return {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": threads, **_bounds(threads)}


def one_stream(threads: int) -> dict[str, Any]:
    """Return the settings for one batch at a time, by all threads."""
    return {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, **_bounds(threads)}


def _bounds(threads: int) -> dict[str, Any]:
    return {"INFERENCE_NUM_THREADS": threads, "CPU_RUNTIME_CACHE_CAPACITY": SHAPES_KEPT}


def compiled(folder: Path, *settings: dict[str, Any]) -> tuple[Any, list[Any]]:
    """Return the graph of a folder and it compiled with each of the settings, over the same weights.

    Raises:
        ConfigInvalid: OpenVINO cannot load it.

    """
    core = openvino.Core()
    try:
        model = core.read_model(folder / MODEL_FILE)
        return model, [core.compile_model(model, "CPU", each) for each in settings]
    except RuntimeError as error:
        raise ConfigInvalid(f"OpenVINO cannot load {folder / MODEL_FILE}: {error}") from None


def native_precision(wanted: Precision) -> Literal["f32", "bf16"]:
    """Return the precision to compute in: "auto" is bfloat16 where the processor has it, float32 elsewhere.

    Raises:
        ConfigInvalid: bfloat16 is asked for of a processor that would only imitate it, slower than float32.

    """
    if wanted == "f32":
        return "f32"
    can = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" in can:
        return "bf16"
    if wanted == "bf16":
        raise ConfigInvalid(
            f"precision is 'bf16', which this processor does not compute natively (it has {', '.join(can)}); "
            "use 'auto' or 'f32'"
        )
    return "f32"


@contextmanager
def failures() -> Iterator[None]:
    """Turn what OpenVINO raises at work into `BackendDown`."""
    try:
        yield
    except RuntimeError as error:
        raise BackendDown(f"OpenVINO failed: {error}") from error


def revision(folder: Path, *said: object) -> str:
    """Return a hash of a folder's graph, weights and tokenizer, and of what else decides a result."""
    hashed = hashlib.sha256("".join(map(repr, said)).encode())
    for name in (MODEL_FILE, WEIGHTS_FILE, TOKENIZER_FILE):
        with (folder / name).open("rb") as file:
            hashed.update(hashlib.file_digest(file, "sha256").digest())
    return hashed.hexdigest()[:16]


def hidden_states(file: Path, model: Any) -> int:
    """Return the place of the output (texts, tokens, dim) of a compiled model.

    Raises:
        ConfigInvalid: it has none.

    """
    ports: Sequence[Any] = list(model.outputs)
    for wanted in ("last_hidden_state", "token_embeddings", None):
        for place, port in enumerate(ports):
            if len(port.partial_shape) == 3 and (wanted is None or wanted in port.get_names()):
                return place
    raise ConfigInvalid(f"{file} has no output of token vectors (texts, tokens, dim); it has {ports}")
