"""Encoders behind an OpenAI-compatible `/v1/embeddings` endpoint: OpenAI, vLLM serve, TEI, llama.cpp, Ollama, …

The connections are those of openai's client, whose own retries are off: each attempt is one call on the bill.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import openai

from podium_server.backends.chat.openai.chat import retry_after_s
from podium_server.backends.chat.tokens import ByteEstimate
from podium_server.backends.encoders.encoder import Encoded, Floats, deadline_at, unit, well_formed
from podium_server.backends.json_errors import error_body
from podium_server.errors import (
    BackendDown,
    BackendRefused,
    ConfigInvalid,
    DeadlineExceeded,
    FailedPrecondition,
    Overloaded,
    UnreadableReply,
)
from podium_server.telemetry import spans

_RETRIED_STATUSES = frozenset({408, 409, 425, 429})
_TEXT_IF_EMPTY = " "
"""Endpoints refuse an empty text, and a blank is as empty as a text may be."""
_ESTIMATE = ByteEstimate()
_NO_TRACE: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an endpoint is tried.

    Args:
        attempts_max: calls for one batch, the first included.
        reply_wait_s_max: for one call.
        backoff_s: the most that is waited after the first failure; doubles with each, and a random part of it is taken.
        backoff_s_max: the most that this grows to.
        retry_after_s_max: the longest wait that an endpoint may ask for; beyond it the call fails at once.

    """

    attempts_max: int = 4
    reply_wait_s_max: float = 60.0
    backoff_s: float = 0.5
    backoff_s_max: float = 8.0
    retry_after_s_max: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts_max < 1:
            raise ConfigInvalid(f"attempts_max is {self.attempts_max}; it must be 1 or more")
        for name in ("reply_wait_s_max", "backoff_s", "backoff_s_max", "retry_after_s_max"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigInvalid(f"{name} is {value}; it must be 0 or more, and finite")


class OpenAIEncoder:
    """An encoder behind an endpoint (`encoders.encoder.Encoder`): one vector a text, and no token vectors.

    Args:
        model: as the endpoint calls it.
        name: the configured name.
        base_url: of the endpoint, to `/v1`; None is OpenAI's own.
        api_key: None where the endpoint wants none.
        query_prefix: put before queries.
        document_prefix: put before documents.
        dimensions: asked for, where the model can shorten its vectors.
        max_tokens: what the model takes; longer texts are cut, by the estimate of `backends.chat.tokens`.
        batch: the most texts of one call.
        batch_tokens: the most tokens of one call, estimated.
        concurrency: calls for documents at the same time.
        patience: how long the endpoint is tried.
        sleep: waits; for tests.

    """

    has_token_vectors = False

    def __init__(
        self,
        model: str,
        *,
        name: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        query_prefix: str | None = None,
        document_prefix: str | None = None,
        dimensions: int | None = None,
        max_tokens: int = 8191,
        batch: int = 64,
        batch_tokens: int = 100_000,
        concurrency: int = 4,
        patience: Patience | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = model if name is None else name
        self.max_tokens = max_tokens
        self._model = model
        self._prefixes = (query_prefix or "", document_prefix or "")
        self._dimensions = dimensions
        self._batch = batch
        self._batch_tokens = batch_tokens
        self._patience = patience or Patience()
        self._sleep = sleep
        self._client = openai.OpenAI(
            # The client insists on a key. Endpoints that want none ignore it.
            api_key=api_key or "none",
            base_url=base_url,
            max_retries=0,
            timeout=self._patience.reply_wait_s_max,
        )
        self._threads = ThreadPoolExecutor(max_workers=concurrency, thread_name_prefix=f"embed-{self.name}")
        self._dim = dimensions
        self._first = threading.Lock()
        # What decides a vector, as far as it can be known from here: an endpoint does not say which weights it has.
        said = repr((str(self._client.base_url), model, dimensions, max_tokens, self._prefixes))
        self.revision = hashlib.sha256(said.encode("utf-8", "replace")).hexdigest()[:16]

    @property
    def dim(self) -> int:
        """The length of a vector. Where `dimensions` is not configured, the first look costs a call."""
        with self._first:
            if self._dim is None:
                self._dim = self._call([_TEXT_IF_EMPTY]).vectors.shape[1]
        return self._dim

    def encode_queries(self, texts: Sequence[str], *, token_vectors: bool = False) -> Encoded:
        """Encode what is looked for; see `Encoder`."""
        return self._encode(texts, self._prefixes[0], token_vectors=token_vectors)

    def encode_documents(self, texts: Sequence[str], *, token_vectors: bool = False) -> Encoded:
        """Encode what is searched, several calls at a time; see `Encoder`."""
        return self._encode(texts, self._prefixes[1], token_vectors=token_vectors)

    def close(self) -> None:
        """Close the connections. Calls under way fail."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _encode(self, texts: Sequence[str], prefix: str, *, token_vectors: bool) -> Encoded:
        if token_vectors:
            raise FailedPrecondition(
                f"the model {self.name!r} is behind an endpoint, which gives one vector a text and no token vectors"
            )
        begun = time.perf_counter()
        cut = [_ESTIMATE.shorten(well_formed(prefix + text) or _TEXT_IF_EMPTY, self.max_tokens) for text in texts]
        tokens = [_ESTIMATE.count(text) for text, _ in cut]
        batches = list(self._batches(tokens))
        prepared = time.perf_counter()
        # Read here: the threads of the pool have contexts of their own.
        call = partial(self._call, until=deadline_at.get(), trace=spans.headers())
        if len(batches) == 1:
            replies = iter([call([text for text, _ in cut])])
        else:
            # map() cancels what has not begun as soon as one fails or the caller gives up.
            replies = self._threads.map(call, [[text for text, _ in cut[each]] for each in batches])
        parts = list(replies)
        widths = {part.vectors.shape[1] for part in parts} | ({self._dim} if self._dim is not None else set())
        if len(widths) > 1:
            raise UnreadableReply(
                f"model {self.name!r}: {self._where} sent vectors of different lengths: {sorted(widths)}"
            )
        if parts:
            (self._dim,) = widths
        vectors = np.concatenate([np.empty((0, self._dim or 0), np.float32), *(part.vectors for part in parts)])
        # An endpoint that does not count is taken at our estimate.
        counted = [
            part.tokens if part.tokens is not None else sum(tokens[each])
            for each, part in zip(batches, parts, strict=True)
        ]
        return Encoded(
            vectors=vectors,
            token_vectors=None,
            tokens=tuple(tokens),
            truncated=tuple(shortened for _, shortened in cut),
            prompt_tokens=sum(counted),
            calls=sum(part.calls for part in parts),
            retries=sum(part.calls - 1 for part in parts),
            tokenize_s=prepared - begun,
            infer_s=time.perf_counter() - prepared,
        )

    def _batches(self, tokens: Sequence[int]) -> Iterator[slice]:
        start = held = 0
        for i, count in enumerate(tokens):
            if i > start and (i - start == self._batch or held + count > self._batch_tokens):
                yield slice(start, i)
                start, held = i, 0
            held += count
        if start < len(tokens):
            yield slice(start, len(tokens))

    def _call(self, texts: Sequence[str], until: float | None = None, trace: Mapping[str, str] = _NO_TRACE) -> _Reply:
        """Embed one batch, with bounded retries, none of which lasts beyond `until`, all of them told of the trace."""
        patience = self._patience
        for attempt in range(1, patience.attempts_max + 1):
            left_s = None if until is None else until - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise self._late()
            try:
                return self._attempt(texts, attempt, left_s, trace)
            except _Fault as fault:
                if until is not None and time.monotonic() >= until:
                    raise self._late() from fault
                asked_s = fault.retry_after_s or 0.0
                if attempt == patience.attempts_max or asked_s > patience.retry_after_s_max:
                    raise self._final(fault, attempt) from fault
                most_s = min(patience.backoff_s * 2.0 ** (attempt - 1), patience.backoff_s_max)
                wait_s = asked_s + random.uniform(0.0, most_s)
                if until is not None and time.monotonic() + wait_s >= until:
                    raise self._late() from fault
                self._sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def _late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"model {self.name!r}: {self._where} gave no vectors before the deadline")

    def _attempt(self, texts: Sequence[str], attempt: int, left_s: float | None, trace: Mapping[str, str]) -> _Reply:
        patience_s = self._patience.reply_wait_s_max
        try:
            raw = self._client.embeddings.with_raw_response.create(
                model=self._model,
                input=list(texts),
                # The client's own default is base64, which not every endpoint knows.
                encoding_format="float",
                dimensions=self._dimensions if self._dimensions is not None else openai.omit,
                extra_headers=trace,
                timeout=patience_s if left_s is None else min(patience_s, left_s),
            )
        except openai.APIStatusError as error:
            said = f"answered {error.status_code}: {error_body(error.response.content).message}"
            if error.status_code in _RETRIED_STATUSES or error.status_code >= 500:
                full = error.status_code == 429
                raise _Fault(said, retry_after_s=retry_after_s(error.response.headers), full=full) from error
            raise BackendRefused(f"model {self.name!r} ({self._model}): {self._where} {said}") from error
        except openai.APIConnectionError as error:
            raise _Fault(f"cannot be reached: {error.__cause__ or error}") from error
        return read_embeddings(raw.http_response.content, len(texts), calls=attempt)

    def _final(self, fault: _Fault, attempts: int) -> BackendDown | Overloaded | UnreadableReply:
        tried = f"after {attempts} of at most {self._patience.attempts_max} attempts"
        message = f"model {self.name!r}: {self._where} {fault} ({tried})"
        metadata = {"model": self.name, "attempts": str(attempts)}
        if fault.unreadable:
            return UnreadableReply(message, metadata=metadata)
        wait_s = max(1.0, fault.retry_after_s or 0.0)
        if fault.full:
            return Overloaded(message, retry_after_s=wait_s, metadata=metadata)
        return BackendDown(message, retry_after_s=wait_s, metadata=metadata)

    @property
    def _where(self) -> str:
        url = self._client.base_url
        return f"{url.scheme}://{url.host}{f':{url.port}' if url.port else ''}"


@dataclass(frozen=True, slots=True)
class _Reply:
    """Vectors (texts, dim) of length 1, the tokens billed or None where the endpoint does not say, and the calls."""

    vectors: Floats
    tokens: int | None
    calls: int


class _Fault(Exception):
    """One attempt failed, and another may not. The text goes after the endpoint's name."""

    def __init__(
        self, text: str, *, retry_after_s: float | None = None, full: bool = False, unreadable: bool = False
    ) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s
        self.full = full
        self.unreadable = unreadable


def read_embeddings(raw: bytes, count: int, *, calls: int = 1) -> _Reply:
    """Read the body of a reply for `count` texts, which is foreign data.

    Raises:
        _Fault: it is not `count` finite vectors of one length.

    """

    def wrong(what: str) -> _Fault:
        return _Fault(f"sent {what}", unreadable=True)

    try:
        body: Any = json.loads(raw)
    except (ValueError, RecursionError):
        raise wrong(error_body(raw).message) from None
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, list) or len(data) != count or not all(isinstance(each, dict) for each in data):
        raise wrong(f"{len(data) if isinstance(data, list) else 'no'} vectors for {count} texts")
    # In the order of `index`, where there is one: the list's own order is not promised.
    places = [each.get("index", i) for i, each in enumerate(data)]
    if not all(isinstance(place, int) for place in places) or sorted(places) != list(range(count)):
        raise wrong("vectors with indexes that are not those of the texts")
    try:
        given = np.array([each.get("embedding") for each in data], dtype=np.float32)
    except (ValueError, TypeError, OverflowError):
        raise wrong("vectors that are no lists of numbers, or of different lengths") from None
    if given.ndim != 2 or not given.shape[1] or not np.isfinite(given).all():
        raise wrong("vectors that are no lists of finite numbers")
    vectors = np.empty_like(given)
    vectors[places] = unit(given)
    usage = body.get("usage")
    billed = (usage.get("prompt_tokens") or usage.get("total_tokens")) if isinstance(usage, dict) else None
    known = isinstance(billed, int) and not isinstance(billed, bool) and billed >= 0
    return _Reply(vectors, billed if known else None, calls)
