"""Encoders run by OpenVINO in this process: the shipped one, or any folder with a converted BERT-like model.

One pass gives both the pooled vector and the token vectors. Batches are small, sorted by length, and padded to their
own longest text: on a few cores that is what decides the speed.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podium_server.backends.encoders.encoder import Encoded, Floats, unit
from podium_server.backends.openvino.bert import PROJECTED_OUTPUT
from podium_server.backends.openvino.cards import read_card
from podium_server.backends.openvino.runtime import (
    MODEL_FILE,
    Precision,
    compiled,
    failures,
    hidden_states,
    many_streams,
    native_precision,
    one_stream,
    revision,
    stepped,
)
from podium_server.backends.openvino.sources import resolve
from podium_server.backends.openvino.tokens import TOKENIZER_FILE, Cut, Tokens
from podium_server.backends.processors import usable_processors
from podium_server.errors import BackendDown

_TEXTS_TOKENIZED_AT_A_TIME = 1024
"""Bounds the memory of a long list; sorted by length, so many hardly pad."""
_PADDED_TOKENS_PER_BATCH = 1024
_TEXTS_PER_BATCH = 64
_WARM_QUERY_TOKENS = (8, 16, 24, 32)
"""Lengths that are prepared at start, in 50 ms or so, rather than at the expense of the first queries."""
_QUERIES_AT_LOW_LATENCY = 8
"""More queries than that are a list of documents, as far as speed is concerned."""


class OpenVinoEncoder:
    """An encoder that OpenVINO runs on the processors of this machine (`backends.encoders.encoder.Encoder`).

    Args:
        model: what `backends.openvino.sources.resolve` takes: a shipped name, a folder (OpenVINO, ONNX, safetensors), a
            name on the hub; `model.toml`, or the files of sentence-transformers, say the rest.
        name: the configured name.
        query_prefix: put before queries; None takes the model's own.
        document_prefix: put before documents; None takes the model's own.
        max_tokens: cut texts to that many tokens, where the model would see more.
        threads: that compute; None takes as many as there are processors for this process.
        precision: that is computed in where numbers are not int8: "auto" is bfloat16 where the processor has it, else
            float32.

    Raises:
        ConfigInvalid: there is no usable model.

    Vectors for late interaction come from the output `token_vectors` where the graph has one (a projection, trained for
    it, mostly narrower), else from the hidden states that are pooled.
    """

    has_token_vectors = True

    def __init__(
        self,
        model: str = "all-minilm-l6-v2",
        *,
        name: str | None = None,
        query_prefix: str | None = None,
        document_prefix: str | None = None,
        max_tokens: int | None = None,
        threads: int | None = None,
        precision: Precision = "auto",
    ) -> None:
        folder = resolve(model, kind="encoder")
        card = read_card(folder)
        self.name = model if name is None else name
        self._card = replace(
            card,
            max_tokens=card.max_tokens if max_tokens is None else min(max_tokens, card.max_tokens),
            query_prefix=card.query_prefix if query_prefix is None else query_prefix,
            document_prefix=card.document_prefix if document_prefix is None else document_prefix,
        )
        self.max_tokens = self._card.max_tokens
        self._tokens = Tokens(folder / TOKENIZER_FILE, self.max_tokens)
        self._engine: _Engine | None = _Engine(
            folder,
            threads=threads or usable_processors(),
            max_tokens=self.max_tokens,
            precision=None if precision == "auto" else native_precision(precision),
        )
        self.dim = self._engine.dim
        self.token_dim = self._engine.token_dim
        # What "auto" chooses is not part of it: a collection may be searched on another machine than it was made on.
        self.revision = revision(folder, self._card, *([] if precision == "auto" else [precision]))

    def encode_queries(self, texts: Sequence[str], *, token_vectors: bool = False) -> Encoded:
        """Encode with all threads on one text after another; see `Encoder`."""
        few = len(texts) <= _QUERIES_AT_LOW_LATENCY
        return self._encode(texts, self._card.query_prefix, token_vectors=token_vectors, few=few)

    def encode_documents(self, texts: Sequence[str], *, token_vectors: bool = False) -> Encoded:
        """Encode with one batch a thread; see `Encoder`."""
        prefix = self._card.document_prefix
        return self._encode(texts, prefix, token_vectors=token_vectors, few=False)

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        """Return [start, end) of each token in code points of `text`, ascending, without special tokens or prefix."""
        return self._tokens.spans(text)

    def inputs(self, texts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        """Return what the graph is given for a batch of documents, by name: what quantization is calibrated with."""
        engine = self._engine
        if engine is None:
            raise BackendDown(f"the encoder {self.name!r} is closed")
        return engine.padded(self._tokens(texts, self._card.document_prefix))

    def close(self) -> None:
        """Free the model once the calls under way have ended."""
        self._engine = None

    def _encode(
        self,
        texts: Sequence[str],
        prefix: str,
        *,
        token_vectors: bool,
        few: bool,
    ) -> Encoded:
        engine = self._engine
        if engine is None:
            raise BackendDown(f"the encoder {self.name!r} is closed")
        vectors = np.empty((len(texts), self.dim), np.float32)
        of_tokens: list[Floats] = [np.empty((0, self.token_dim), np.float32)] * len(texts) if token_vectors else []
        tokens: list[int] = []
        truncated: list[bool] = []
        tokenize_s = infer_s = 0.0
        for start in range(0, len(texts), _TEXTS_TOKENIZED_AT_A_TIME):
            begun = time.perf_counter()
            cut = self._tokens(texts[start : start + _TEXTS_TOKENIZED_AT_A_TIME], prefix)
            tokens += [len(each.ids) for each in cut]
            truncated += [each.truncated for each in cut]
            tokenized = time.perf_counter()
            # Closed here and now, not when the traceback of an error is forgotten: it holds requests.
            with closing(engine.run(cut, low_latency=few)) as batches:
                for chunk, hidden, projected in batches:
                    self._take(cut, chunk, hidden, projected, vectors[start:], of_tokens, start)
            tokenize_s += tokenized - begun
            infer_s += time.perf_counter() - tokenized
        return Encoded(
            vectors=vectors,
            token_vectors=tuple(of_tokens) if token_vectors else None,
            tokens=tuple(tokens),
            truncated=tuple(truncated),
            prompt_tokens=sum(tokens),
            tokenize_s=tokenize_s,
            infer_s=infer_s,
        )

    def _take(
        self,
        cut: Sequence[Cut],
        chunk: Sequence[int],
        hidden: Floats,
        projected: Floats,
        vectors: Floats,
        of_tokens: list[Floats],
        offset: int,
    ) -> None:
        """Make vectors of one batch's outputs (texts, tokens, dim), which are overwritten afterwards."""
        for row, i in enumerate(chunk):
            own = hidden[row, : len(cut[i].ids)]
            vectors[i] = own.mean(axis=0) if self._card.pooling == "mean" else own[0]
            if of_tokens:
                of_tokens[offset + i] = unit(projected[row, cut[i].content])
        vectors[chunk] = unit(vectors[chunk])


class _Engine:
    """The model, compiled twice over the same weights: for many texts, and for one at a time."""

    def __init__(self, folder: Path, *, threads: int, max_tokens: int, precision: str | None) -> None:
        self._max_tokens = max_tokens
        said = {} if precision is None else {"INFERENCE_PRECISION_HINT": precision}
        _, (self._many, self._one) = compiled(folder, many_streams(threads) | said, one_stream(threads) | said)
        self._inputs = tuple(port.get_any_name() for port in self._many.inputs)
        self._output = hidden_states(folder / MODEL_FILE, self._many)
        self._projected = next(
            (place for place, port in enumerate(self._many.outputs) if PROJECTED_OUTPUT in port.get_names()),
            self._output,
        )
        self.dim, self.token_dim = (
            int(self._many.output(place).partial_shape[2].get_length()) for place in (self._output, self._projected)
        )
        self._idle_many: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(threads + 1):  # one waits while the others compute
            self._idle_many.put(self._many.create_infer_request())
        self._idle_one = self._one.create_infer_request()
        self._one_at_a_time = threading.Lock()
        with failures():
            for count in _WARM_QUERY_TOKENS:
                if count <= max_tokens:
                    self._idle_one.infer(self.padded([Cut([0] * count, np.empty(0, np.intp), truncated=False)]))

    def run(
        self, texts: Sequence[Cut], *, low_latency: bool
    ) -> Generator[tuple[list[int], Floats, Floats], None, None]:
        """Yield (places in `texts`, hidden states, vectors for late interaction: (texts, tokens, dim)).

        They are valid until the next.
        """
        if low_latency:
            for place, text in enumerate(texts):
                with self._one_at_a_time:
                    with failures():
                        self._idle_one.infer(self.padded([text]))
                    yield [place], *self._outputs(self._idle_one)
            return
        # Nobody waits for a request while holding one, so that callers side by side cannot lock each other out.
        under_way: deque[tuple[Any, list[int]]] = deque()
        try:
            for places in _batches(texts):
                request = self._idle(under_way)
                while request is None:
                    yield from self._finished(under_way)
                    request = self._idle(under_way)
                under_way.append((request, places))
                with failures():
                    request.start_async(self.padded([texts[i] for i in places]))
            while under_way:
                yield from self._finished(under_way)
        finally:
            # The caller gave up, or a batch failed: the requests must be idle before they are lent again.
            while under_way:
                request, _ = under_way.popleft()
                with suppress(RuntimeError):  # the failure that is on its way out tells enough
                    request.wait()
                self._idle_many.put(request)

    def _idle(self, under_way: deque[tuple[Any, list[int]]]) -> Any | None:
        try:
            return self._idle_many.get(block=not under_way)
        except queue.Empty:
            return None

    def _finished(self, under_way: deque[tuple[Any, list[int]]]) -> Iterator[tuple[list[int], Floats, Floats]]:
        request, places = under_way[0]
        with failures():
            request.wait()
        yield places, *self._outputs(request)
        under_way.popleft()
        self._idle_many.put(request)

    def _outputs(self, request: Any) -> tuple[Floats, Floats]:
        return request.get_output_tensor(self._output).data, request.get_output_tensor(self._projected).data

    def padded(self, texts: Sequence[Cut]) -> dict[str, NDArray[np.int64]]:
        """Return the graph's inputs, as long as the longest text (to a multiple of `LENGTH_STEP`)."""
        longest = max(len(text.ids) for text in texts)
        ids = np.zeros((len(texts), stepped(longest, self._max_tokens)), np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text.ids)] = text.ids
            mask[row, : len(text.ids)] = 1
        given = {"input_ids": ids, "attention_mask": mask}
        # Segment numbers, where the model has them: one text, one segment.
        return {name: given.get(name, np.zeros_like(ids)) for name in self._inputs}


def _batches(texts: Sequence[Cut]) -> Iterator[list[int]]:
    """Yield places in `texts`, the longest first, so that what is left at the end is short."""
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i].ids))
    start = 0
    while start < len(order):
        longest = len(texts[order[start]].ids)
        count = max(1, min(_TEXTS_PER_BATCH, _PADDED_TOKENS_PER_BATCH // longest))
        yield order[start : start + count]
        start += count
