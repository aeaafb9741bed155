"""Cross-encoders run by OpenVINO in this process: one batch a core, each padded to its own longest pair and no further.

The tokens are made here as well: a query's once for all its passages, and the pair put together as the tokenizer's own
template says. What a batch should hold is measured when the model is loaded.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podium_server.backends.cross_encoders.cross_encoder import PASSAGE_TOKENS_MIN, Capacity, Pair, ScoreScale
from podium_server.backends.encoders.encoder import Floats
from podium_server.backends.openvino.cards import CrossEncoderCard, read_cross_encoder_card
from podium_server.backends.openvino.runtime import (
    MODEL_FILE,
    Precision,
    compiled,
    failures,
    many_streams,
    native_precision,
    revision,
    stepped,
)
from podium_server.backends.openvino.sources import resolve
from podium_server.backends.openvino.tokens import TOKENIZER_FILE, Tokens, read_tokenizer
from podium_server.backends.processors import usable_processors
from podium_server.errors import BackendDown, ConfigInvalid

_TYPICAL_TOKENS = 128
"""Of a query and a passage as first stages give them; what batches are measured with."""
_PAIRS_MEASURED = (1, 4, 8, 16)
_MEASURING_S = 0.7
"""A larger batch is tried as long as it should fit into that."""
_WORTH_A_LARGER_BATCH = 1.03
"""A larger batch waits longer and pads more, so that it must be that much faster."""
_PAIRS_PER_BATCH = 64


class OpenVinoCrossEncoder:
    """A cross-encoder that OpenVINO runs on this machine's processors (`cross_encoders.cross_encoder.CrossEncoder`).

    A pair is cut at the passage's end. A query that would leave the passage fewer than `PASSAGE_TOKENS_MIN` tokens is
    cut itself, to leave that many (half of the room, where the room is smaller than twice that). Either counts as
    truncated.

    Args:
        model: what `backends.openvino.sources.resolve` takes: a folder (OpenVINO, ONNX, safetensors) or a hub name.
        name: the configured name.
        max_tokens: cut pairs to that many tokens, where the model would see more.
        threads: that compute, each with its own batch; None takes as many as there are processors for this process.
        precision: that activations and weights are computed in, where they are not int8: "auto" is bfloat16 where the
            processor has it, else float32.
        capacity: what the model takes at a time; None measures it, in less than a second for a small model.

    Raises:
        ConfigInvalid: there is no usable model, or it has more outputs than a score.

    """

    def __init__(
        self,
        model: str,
        *,
        name: str | None = None,
        max_tokens: int | None = None,
        threads: int | None = None,
        precision: Precision = "auto",
        capacity: Capacity | None = None,
    ) -> None:
        folder = resolve(model, kind="cross-encoder")
        card = read_cross_encoder_card(folder)
        self.name = model if name is None else name
        self.max_tokens = card.max_tokens if max_tokens is None else min(max_tokens, card.max_tokens)
        self.precision = native_precision(precision)
        self._template = _Template.read(folder / TOKENIZER_FILE)
        room = self.max_tokens - self._template.special
        if room < 2:
            raise ConfigInvalid(
                f"max_tokens is {self.max_tokens}, of which {self._template.special} are the model's own; a query and "
                "a passage need two at least"
            )
        self._tokens = Tokens(folder / TOKENIZER_FILE, room, special=False)
        self._room = room
        lanes = threads or usable_processors()
        self._engine: _Engine | None = _Engine(folder, card, self.precision, lanes, self.max_tokens)
        self.scale: ScoreScale = self._engine.scale
        self.revision = revision(folder, self.max_tokens, self.precision, self.scale)
        self.capacity = self._engine.measured() if capacity is None else capacity

    def pairs(self, query: str, passages: Sequence[str], *, instruction: str = "") -> list[Pair]:
        """Make a pair of the query with each passage; see `CrossEncoder`. There is no place for an instruction."""
        [asked] = self._tokens([query])
        return [
            self._pair(asked.ids, passage.ids, truncated=asked.truncated or passage.truncated)
            for passage in self._tokens(passages)
        ]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return [start, end) of each token in code points of `text`, ascending, without special tokens."""
        return self._tokens.spans(text)

    def score(self, batch: Sequence[Pair]) -> Floats:
        """Return (pairs,) float32, in the order given; see `CrossEncoder`."""
        engine = self._engine
        if engine is None:
            raise BackendDown(f"the cross-encoder {self.name!r} is closed")
        if not batch:
            return np.empty(0, np.float32)
        scores = engine.run([pair.input for pair in batch])
        if not np.isfinite(scores).all():
            raise BackendDown(f"the cross-encoder {self.name!r} gave {scores[~np.isfinite(scores)][0]} as a score")
        return scores

    def inputs(self, batch: Sequence[Pair]) -> dict[str, NDArray[np.int64]]:
        """Return what the graph is given for a batch, by name: what quantization is calibrated with."""
        engine = self._engine
        if engine is None:
            raise BackendDown(f"the cross-encoder {self.name!r} is closed")
        return engine.padded([pair.input for pair in batch])

    def close(self) -> None:
        """Free the model once the calls under way have ended."""
        self._engine = None

    def _pair(self, query: list[int], passage: list[int], *, truncated: bool) -> Pair:
        kept = min(PASSAGE_TOKENS_MIN, self._room // 2, len(passage))
        asked = query[: self._room - kept]
        left = passage[: self._room - len(asked)]
        ids, types = self._template.filled(asked, left)
        cut = len(asked) < len(query) or len(left) < len(passage)
        return Pair(tokens=len(ids), truncated=truncated or cut, input=_Ids(ids, types))


@dataclass(frozen=True, slots=True, eq=False)
class _Ids:
    """A pair as the graph takes it: (tokens,) token numbers, and of each which text it belongs to."""

    ids: NDArray[np.int32]
    types: NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class _Template:
    """Where a tokenizer puts a pair's own tokens: before the query, between query and passage, after the passage.

    Read off what the tokenizer makes of a pair, whatever the post-processor is that makes it.
    """

    before: tuple[tuple[int, int], ...]
    between: tuple[tuple[int, int], ...]
    after: tuple[tuple[int, int], ...]
    query_type: int
    passage_type: int

    @classmethod
    def read(cls, file: Path) -> _Template:
        tokenizer = read_tokenizer(file)
        # Words that any vocabulary has tokens for, its unknown one at least.
        probe = tokenizer.encode("query", "passage")
        of = probe.sequence_ids
        queries, passages = ([place for place, text in enumerate(of) if text == which] for which in (0, 1))
        if not queries or not passages or queries[-1] > passages[0]:
            raise ConfigInvalid(f"{file} has no template for a query and a passage, in this order")
        first, end, start, last = queries[0], queries[-1], passages[0], passages[-1]
        own = list(zip(probe.ids, probe.type_ids, strict=True))
        return cls(
            before=tuple(own[:first]),
            between=tuple(own[end + 1 : start]),
            after=tuple(own[last + 1 :]),
            query_type=probe.type_ids[first],
            passage_type=probe.type_ids[start],
        )

    @property
    def special(self) -> int:
        """How many tokens it adds."""
        return len(self.before) + len(self.between) + len(self.after)

    def filled(self, query: list[int], passage: list[int]) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
        """Return the token numbers and types of a pair."""
        (b, bt), (m, mt), (a, at) = (_columns(part) for part in (self.before, self.between, self.after))
        ids = [*b, *query, *m, *passage, *a]
        types = [*bt, *[self.query_type] * len(query), *mt, *[self.passage_type] * len(passage), *at]
        return np.array(ids, np.int32), np.array(types, np.int8)


def _columns(part: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [number for number, _ in part], [kind for _, kind in part]


class _Engine:
    """The compiled graph, and one request for each thread."""

    def __init__(self, folder: Path, card: CrossEncoderCard, precision: str, lanes: int, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._lanes = lanes
        settings = many_streams(lanes) | {"INFERENCE_PRECISION_HINT": precision}
        graph, [model] = compiled(folder, settings)
        file = folder / MODEL_FILE
        self._inputs = tuple(port.get_any_name() for port in model.inputs)
        unknown = set(self._inputs) - {"input_ids", "attention_mask", "token_type_ids"}
        if unknown:
            raise ConfigInvalid(f"{file} wants {', '.join(sorted(unknown))}, which a tokenizer does not make")
        self._output, self._labels = _score_output(file, model)
        self.scale: ScoreScale = card.score_scale or _scale(graph, self._output)
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(lanes):
            self._idle.put(model.create_infer_request())

    def run(self, pairs: Sequence[_Ids]) -> Floats:
        """Return (pairs,) float32; waits for a free thread."""
        given = self.padded(pairs)
        request = self._idle.get()
        try:
            with failures():
                request.infer(given)
            # A copy: the next one's scores will be written there.
            return self._scores(request.get_output_tensor(self._output).data)
        finally:
            self._idle.put(request)

    def measured(self) -> Capacity:
        """Return what the model takes at a time: the batch with the most tokens a second, all threads busy."""
        tokens = min(_TYPICAL_TOKENS, self._max_tokens)
        best_pairs, best_tokens_per_s = 1, 0.0
        ends_at = time.perf_counter() + _MEASURING_S
        for pairs in _PAIRS_MEASURED:
            took_s = min(self._round_s(pairs, tokens) for _ in range(2))  # the first prepares the shape
            tokens_per_s = self._lanes * pairs * tokens / took_s
            if tokens_per_s > best_tokens_per_s * _WORTH_A_LARGER_BATCH:
                best_pairs, best_tokens_per_s = pairs, tokens_per_s
            next_s = 2 * took_s * _growth(pairs)
            if time.perf_counter() + next_s > ends_at:
                break
        return Capacity(
            lanes=self._lanes,
            padded_tokens=best_pairs * tokens,
            pairs=_PAIRS_PER_BATCH,
            tokens_per_s=best_tokens_per_s,
        )

    def _round_s(self, pairs: int, tokens: int) -> float:
        """Return the seconds of one batch a thread, side by side."""
        batch = self.padded([_Ids(np.zeros(tokens, np.int32), np.zeros(tokens, np.int8))] * pairs)
        requests = [self._idle.get() for _ in range(self._lanes)]
        try:
            begun = time.perf_counter()
            with failures():
                for request in requests:
                    request.start_async(batch)
                for request in requests:
                    request.wait()
            return time.perf_counter() - begun
        finally:
            for request in requests:
                self._idle.put(request)

    def padded(self, pairs: Sequence[_Ids]) -> dict[str, NDArray[np.int64]]:
        """Return the graph's inputs, as long as the longest pair (to a multiple of `LENGTH_STEP`)."""
        length = stepped(max(len(pair.ids) for pair in pairs), self._max_tokens)
        given = {name: np.zeros((len(pairs), length), np.int64) for name in ("input_ids", "attention_mask")}
        types = given["token_type_ids"] = np.zeros((len(pairs), length), np.int64)
        for row, pair in enumerate(pairs):
            given["input_ids"][row, : len(pair.ids)] = pair.ids
            given["attention_mask"][row, : len(pair.ids)] = 1
            types[row, : len(pair.ids)] = pair.types
        return {name: given[name] for name in self._inputs}

    def _scores(self, given: NDArray[Any]) -> Floats:
        rows = given.reshape(len(given), -1).astype(np.float32)
        if self._labels == 1:
            return rows[:, 0].copy()
        # The logit of the softmax of two logits is their difference; of two probabilities the second is the score.
        return rows[:, 1] - rows[:, 0] if self.scale == "logit" else rows[:, 1].copy()


def _growth(pairs: int) -> float:
    place = _PAIRS_MEASURED.index(pairs)
    return _PAIRS_MEASURED[place + 1] / pairs if place + 1 < len(_PAIRS_MEASURED) else float("inf")


def _score_output(file: Path, model: Any) -> tuple[int, int]:
    """Return the place of the output (pairs, labels) or (pairs,), and its labels: 1 or 2."""
    ports = list(model.outputs)
    for place, port in enumerate(ports):
        shape = port.partial_shape
        if len(shape) == 1:
            return place, 1
        if len(shape) == 2 and shape[1].is_static:
            labels = int(shape[1].get_length())
            if labels in (1, 2):
                return place, labels
            raise ConfigInvalid(
                f"{file} gives {labels} numbers a pair; a score is 1, or 2 of which the difference is taken"
            )
    raise ConfigInvalid(f"{file} has no output of one score a pair; it has {ports}")


_PASSED_OVER = ("Result", "Convert", "Squeeze", "Unsqueeze", "Reshape")


def _scale(graph: Any, output: int) -> ScoreScale:
    """Return what a graph gives: a probability where it ends in a sigmoid or a softmax."""
    node = graph.outputs[output].get_node()
    while node.get_type_name() in _PASSED_OVER:
        node = node.input_value(0).get_node()
    return "probability" if node.get_type_name() in ("Sigmoid", "Softmax", "SoftMax") else "logit"
