"""Encoders run by OpenVINO in this process: the shipped one, or any folder with a converted BERT-like model.

One pass gives both the pooled vector and the token vectors. Batches are small, sorted by length, and padded to their
own longest text: on a few cores that is what decides the speed.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
import time
import tomllib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import openvino
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from podium_server.backends.encoders.encoder import (
    CHARACTERS_PER_TOKEN,
    CHARACTERS_PER_TOKEN_AT_MOST,
    Encoded,
    Floats,
    beginning,
    unit,
    well_formed,
)
from podium_server.backends.processors import usable_processors
from podium_server.errors import BackendDown, ConfigInvalid

Pooling: TypeAlias = Literal["mean", "cls"]

MODEL_FILE = "openvino_model.xml"
TOKENIZER_FILE = "tokenizer.json"
CARD_FILE = "model.toml"

_TEXTS_TOKENIZED_AT_A_TIME = 1024
"""Bounds the memory of a long list; sorted by length, so many hardly pad."""
_PADDED_TOKENS_PER_BATCH = 1024
_TEXTS_PER_BATCH = 64
_LENGTH_STEP = 8
"""Lengths are padded to a multiple of it. OpenVINO keeps what it prepared for every shape that it has met: a thousand
documents grew the process by 150 MB with all lengths, by 125 MB with a step of 8, and took as long."""
_WARM_QUERY_TOKENS = (8, 16, 24, 32)
"""Lengths that are prepared at start, in 50 ms or so, rather than at the expense of the first queries."""
_QUERIES_AT_LOW_LATENCY = 8
"""More queries than that are a list of documents, as far as speed is concerned."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What must be known of a model beside its graph (`model.toml`).

    Args:
        max_tokens: the most that it sees of a text, special tokens and prefix included.
        pooling: how a text's vector is made of its tokens'.
        query_prefix: put before queries.
        document_prefix: put before documents.

    """

    max_tokens: int
    pooling: Pooling = "mean"
    query_prefix: str = ""
    document_prefix: str = ""

    def __post_init__(self) -> None:
        if self.pooling not in ("mean", "cls"):
            raise ConfigInvalid(f"pooling is {self.pooling!r}; it must be 'mean' or 'cls'")
        if self.max_tokens < 3:
            raise ConfigInvalid(f"max_tokens is {self.max_tokens}; it must be 3 or more")


def shipped_models() -> tuple[str, ...]:
    """Return the names of the models that ship with Podium."""
    return tuple(
        sorted(entry.name for entry in files("podium_server.models").iterdir() if (entry / MODEL_FILE).is_file())
    )


def model_folder(model: str) -> Path:
    """Return the folder of a shipped name, or `model` itself where it is a folder with an OpenVINO model.

    Raises:
        ConfigInvalid: with the shipped names and the files that a folder needs.

    """
    folder = Path(str(files("podium_server.models"))) / model if model in shipped_models() else Path(model)
    missing = [name for name in (MODEL_FILE, TOKENIZER_FILE) if not (folder / name).is_file()]
    if missing:
        raise ConfigInvalid(
            f"model {model!r} is not one that ships with Podium ({', '.join(shipped_models())}), and as a folder it "
            f"lacks {' and '.join(missing)}"
        )
    return folder


def read_card(folder: Path) -> ModelCard:
    """Read `model.toml`, or where there is none the files that sentence-transformers writes.

    Raises:
        ConfigInvalid: there are neither, or what they say cannot be used.

    """
    if (folder / CARD_FILE).is_file():
        try:
            said = tomllib.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
            return ModelCard(
                max_tokens=int(said["max_tokens"]),
                pooling=said.get("pooling", "mean"),
                query_prefix=str(said.get("query_prefix", "")),
                document_prefix=str(said.get("document_prefix", "")),
            )
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
            raise ConfigInvalid(
                f"{folder / CARD_FILE} cannot be read: {error!r}; it needs max_tokens at least"
            ) from None
    length = _json(folder / "sentence_bert_config.json").get("max_seq_length")
    if length is None:
        length = _json(folder / "config.json").get("max_position_embeddings")
    if not isinstance(length, int):
        raise ConfigInvalid(
            f"{folder} has neither {CARD_FILE} nor sentence_bert_config.json; write a {CARD_FILE} with max_tokens"
        )
    prompts = _json(folder / "config_sentence_transformers.json").get("prompts") or {}
    return ModelCard(
        max_tokens=length,
        pooling="cls" if _json(folder / "1_Pooling" / "config.json").get("pooling_mode_cls_token") else "mean",
        query_prefix=prompts.get("query", ""),
        document_prefix=prompts.get("document", prompts.get("passage", "")),
    )


class OpenVinoEncoder:
    """An encoder that OpenVINO runs on the processors of this machine (`backends.encoder.Encoder`).

    Args:
        model: a shipped name, or a folder with `openvino_model.xml`, its `.bin` and `tokenizer.json`; `model.toml`, or
            the files of sentence-transformers, say the rest.
        name: the configured name.
        query_prefix: put before queries; None takes the model's own.
        document_prefix: put before documents; None takes the model's own.
        max_tokens: cut texts to that many tokens, where the model would see more.
        threads: that compute; None takes as many as there are processors for this process.

    Raises:
        ConfigInvalid: the folder has no usable model.

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
    ) -> None:
        folder = model_folder(model)
        card = read_card(folder)
        self.name = model if name is None else name
        self._card = replace(
            card,
            max_tokens=card.max_tokens if max_tokens is None else min(max_tokens, card.max_tokens),
            query_prefix=card.query_prefix if query_prefix is None else query_prefix,
            document_prefix=card.document_prefix if document_prefix is None else document_prefix,
        )
        self.max_tokens = self._card.max_tokens
        self._tokens = _Tokens(folder / TOKENIZER_FILE, self.max_tokens)
        self._engine: _Engine | None = _Engine(
            folder / MODEL_FILE, threads=threads or usable_processors(), max_tokens=self.max_tokens
        )
        self.dim = self._engine.dim
        self.revision = _revision(folder, self._card)

    def encode_queries(self, texts: Sequence[str], *, token_vectors: bool = False) -> Encoded:
        """Encode with all threads on one text after another; see `Encoder`."""
        few = len(texts) <= _QUERIES_AT_LOW_LATENCY
        return self._encode(texts, self._card.query_prefix, token_vectors=token_vectors, progress=None, few=few)

    def encode_documents(
        self, texts: Sequence[str], *, token_vectors: bool = False, progress: Callable[[int], None] | None = None
    ) -> Encoded:
        """Encode with one batch a thread; see `Encoder`."""
        prefix = self._card.document_prefix
        return self._encode(texts, prefix, token_vectors=token_vectors, progress=progress, few=False)

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        """Return [start, end) of each token in code points of `text`, ascending, without special tokens or prefix."""
        return self._tokens.spans(text)

    def close(self) -> None:
        """Free the model once the calls under way have ended."""
        self._engine = None

    def _encode(
        self,
        texts: Sequence[str],
        prefix: str,
        *,
        token_vectors: bool,
        progress: Callable[[int], None] | None,
        few: bool,
    ) -> Encoded:
        engine = self._engine
        if engine is None:
            raise BackendDown(f"the encoder {self.name!r} is closed")
        vectors = np.empty((len(texts), self.dim), np.float32)
        of_tokens: list[Floats] = [np.empty((0, self.dim), np.float32)] * len(texts) if token_vectors else []
        tokens: list[int] = []
        truncated: list[bool] = []
        tokenize_s = infer_s = 0.0
        for start in range(0, len(texts), _TEXTS_TOKENIZED_AT_A_TIME):
            begun = time.perf_counter()
            cut = self._tokens(texts[start : start + _TEXTS_TOKENIZED_AT_A_TIME], prefix)
            tokens += [len(each.ids) for each in cut]
            truncated += [each.truncated for each in cut]
            tokenized = time.perf_counter()
            # Closed here and now, not when the traceback of what `progress` raised is forgotten: it holds requests.
            with closing(engine.run(cut, low_latency=few)) as batches:
                for chunk, hidden in batches:
                    self._take(cut, chunk, hidden, vectors[start:], of_tokens, start)
                    if progress is not None:
                        progress(len(chunk))
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
        cut: Sequence[_Cut],
        chunk: Sequence[int],
        hidden: Floats,
        vectors: Floats,
        of_tokens: list[Floats],
        offset: int,
    ) -> None:
        """Make vectors of one batch's hidden states (texts, tokens, dim), which are overwritten afterwards."""
        for row, i in enumerate(chunk):
            own = hidden[row, : len(cut[i].ids)]
            vectors[i] = own.mean(axis=0) if self._card.pooling == "mean" else own[0]
            if of_tokens:
                of_tokens[offset + i] = unit(own[cut[i].content])
        vectors[chunk] = unit(vectors[chunk])


@dataclass(frozen=True, slots=True)
class _Cut:
    """One text as the model sees it; `content` are the places of tokens that are neither special nor the prefix's."""

    ids: list[int]
    content: NDArray[np.intp]
    truncated: bool


class _Tokens:
    """Makes tokens, quickly for texts of any length."""

    def __init__(self, file: Path, max_tokens: int) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        # The library raises a bare Exception for a file that it cannot read, and has no other.
        except Exception as error:  # noqa: BLE001
            raise ConfigInvalid(f"{file} is not a tokenizer: {error}") from None
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        # "[SEP]" within a text is five letters that somebody wrote, not the end of it.
        self._tokenizer.encode_special_tokens = True
        self._max_tokens = max_tokens
        self._prefix_tokens: dict[str, int] = {"": 0}

    def __call__(self, texts: Sequence[str], prefix: str) -> list[_Cut]:
        of_prefix = self._prefix_tokens.get(prefix)
        if of_prefix is None:
            encoding = self._tokenizer.encode(prefix.rstrip(), add_special_tokens=False)
            of_prefix = self._prefix_tokens[prefix] = len(encoding.ids)
        cuts: list[_Cut | None] = [None] * len(texts)
        left = range(len(texts))
        characters = self._max_tokens * CHARACTERS_PER_TOKEN
        at_most = self._max_tokens * CHARACTERS_PER_TOKEN_AT_MOST
        while left:
            heads = [well_formed(prefix + beginning(texts[i], characters)) for i in left]
            again = []
            for i, encoding in zip(left, self._encodings(heads), strict=True):
                unread = len(texts[i]) > characters
                # So few tokens in so many characters: blanks, or very long words. There may be more to see.
                if unread and len(encoding.ids) < self._max_tokens and characters < at_most:
                    again.append(i)
                else:
                    cuts[i] = _cut(encoding, of_prefix, unread=unread)
            left = again  # type: ignore[assignment]
            characters = at_most
        return cast("list[_Cut]", cuts)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return where each token of the whole text stands, however long it is."""
        whole = self._tokenizer.encode(text)
        return [
            span
            for part in (whole, *whole.overflowing)
            for span, special in zip(part.offsets, part.special_tokens_mask, strict=True)
            if not special
        ]

    def _encodings(self, texts: list[str]) -> list[Encoding]:
        if len(texts) == 1:  # spares the hand-over to the library's threads
            return [self._tokenizer.encode(texts[0])]
        encodings: list[Encoding] = self._tokenizer.encode_batch_fast(texts)
        return encodings


def _cut(encoding: Encoding, of_prefix: int, *, unread: bool) -> _Cut:
    content = np.flatnonzero(np.asarray(encoding.special_tokens_mask) == 0)[of_prefix:]
    return _Cut(encoding.ids, content, unread or bool(encoding.overflowing))


class _Engine:
    """The model, compiled twice over the same weights: for many texts, and for one at a time."""

    def __init__(self, file: Path, *, threads: int, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        core = openvino.Core()
        try:
            model = core.read_model(file)
            self._many = core.compile_model(
                model,
                "CPU",
                # One batch a thread: threads that share a batch wait for each other at every layer.
                {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": threads, "INFERENCE_NUM_THREADS": threads},
            )
            self._one = core.compile_model(
                model, "CPU", {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads}
            )
        except RuntimeError as error:
            raise ConfigInvalid(f"OpenVINO cannot load {file}: {error}") from None
        self._inputs = tuple(port.get_any_name() for port in self._many.inputs)
        self._output = _hidden_states(file, self._many)
        self.dim = int(self._many.output(self._output).partial_shape[2].get_length())
        self._idle_many: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(threads + 1):  # one waits while the others compute
            self._idle_many.put(self._many.create_infer_request())
        self._idle_one = self._one.create_infer_request()
        self._one_at_a_time = threading.Lock()
        with _failures():
            for count in _WARM_QUERY_TOKENS:
                if count <= max_tokens:
                    self._idle_one.infer(self._padded([_Cut([0] * count, np.empty(0, np.intp), truncated=False)]))

    def run(self, texts: Sequence[_Cut], *, low_latency: bool) -> Generator[tuple[list[int], Floats], None, None]:
        """Yield (places in `texts`, hidden states (texts, tokens, dim)); valid until the next."""
        if low_latency:
            for place, text in enumerate(texts):
                with self._one_at_a_time:
                    with _failures():
                        self._idle_one.infer(self._padded([text]))
                    yield [place], self._idle_one.get_output_tensor(self._output).data
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
                with _failures():
                    request.start_async(self._padded([texts[i] for i in places]))
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

    def _finished(self, under_way: deque[tuple[Any, list[int]]]) -> Iterator[tuple[list[int], Floats]]:
        request, places = under_way[0]
        with _failures():
            request.wait()
        yield places, request.get_output_tensor(self._output).data
        under_way.popleft()
        self._idle_many.put(request)

    def _padded(self, texts: Sequence[_Cut]) -> dict[str, NDArray[np.int64]]:
        longest = max(len(text.ids) for text in texts)
        ids = np.zeros((len(texts), min(-(-longest // _LENGTH_STEP) * _LENGTH_STEP, self._max_tokens)), np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text.ids)] = text.ids
            mask[row, : len(text.ids)] = 1
        given = {"input_ids": ids, "attention_mask": mask}
        # Segment numbers, where the model has them: one text, one segment.
        return {name: given.get(name, np.zeros_like(ids)) for name in self._inputs}


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise BackendDown(f"OpenVINO failed: {error}") from error


def _batches(texts: Sequence[_Cut]) -> Iterator[list[int]]:
    """Yield places in `texts`, the longest first, so that what is left at the end is short."""
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i].ids))
    start = 0
    while start < len(order):
        longest = len(texts[order[start]].ids)
        count = max(1, min(_TEXTS_PER_BATCH, _PADDED_TOKENS_PER_BATCH // longest))
        yield order[start : start + count]
        start += count


def _hidden_states(file: Path, model: Any) -> int:
    """Return the place of the output (texts, tokens, dim) of a compiled model."""
    ports = list(model.outputs)
    for wanted in ("last_hidden_state", "token_embeddings", None):
        for place, port in enumerate(ports):
            if len(port.partial_shape) == 3 and (wanted is None or wanted in port.get_names()):
                return place
    raise ConfigInvalid(f"{file} has no output of token vectors (texts, tokens, dim); it has {ports}")


def _revision(folder: Path, card: ModelCard) -> str:
    said = hashlib.sha256(repr(card).encode())
    for name in (MODEL_FILE, Path(MODEL_FILE).with_suffix(".bin").name, TOKENIZER_FILE):
        with (folder / name).open("rb") as file:
            said.update(hashlib.file_digest(file, "sha256").digest())
    return said.hexdigest()[:16]


def _json(file: Path) -> dict[str, Any]:
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigInvalid(f"{file} is not JSON: {error}") from None
    return said if isinstance(said, dict) else {}
