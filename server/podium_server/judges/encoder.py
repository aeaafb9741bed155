"""Judges that need no training: the cosine of two texts, and late interaction of their tokens.

Both come out of one pass of one encoder. Voices of one request that look at the same documents share that pass, and
documents that were recalled from a collection bring their vectors along.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from podium_server.accounting.prices import Prices
from podium_server.accounting.usage import CostBasis, Usage
from podium_server.backends.encoders.encoder import Encoded, Encoder, deadline_at
from podium_server.backends.encoders.maxsim import maxsim
from podium_server.backends.encoders.pace import Pace, measured
from podium_server.backends.worker import Worker
from podium_server.errors import DeadlineExceeded, FailedPrecondition
from podium_server.judges.case import Case, Side, Truncation
from podium_server.judges.judge import JudgeFacts, Ruling, ScoreKind, Sink
from podium_server.judges.passages import shortened
from podium_server.telemetry import spans
from podium_strategies.plan import Grade, Liken, Question

Vectors = NDArray[np.float32]

# Documents handed to the encoder at a time: enough to fill its batches, few enough that a cancelled request, or one
# that stands behind, does not wait for thousands.
_SLICE_DOCUMENTS = 64

# English in the common word-piece vocabularies: a token for every 4.3 characters or so. Only for estimates.
_CHARACTERS_PER_TOKEN = 4

# [CLS] and [SEP], which stand in the model's window too.
_SPECIAL_TOKENS = 2


class StoredVectors(Protocol):
    """Vectors of documents that were indexed, by the keys of their passages."""

    async def vectors(self, collection: str, chunks: Sequence[int]) -> Vectors:
        """Return (n, dim) pooled vectors."""

    async def token_vectors(self, collection: str, chunks: Sequence[int]) -> Sequence[Vectors] | None:
        """Return the (tokens, dim) token vectors of each, or None where the collection keeps none."""


@dataclass(slots=True)
class EncoderSeat:
    """One encoder and the threads that run it, shared by all judges that use it.

    Args:
        name: of the configured model.
        load: builds the encoder; it is called once, in the thread, when it is first needed.
        queries: the thread for queries, which never stand behind documents.
        documents: the thread for documents.
        priced_by_time: its pace is measured when it is loaded, because what it will cost depends on it.

    """

    name: str
    load: Callable[[], Encoder]
    queries: Worker
    documents: Worker
    priced_by_time: bool = False
    loaded: Encoder | None = None
    pace: Pace | None = None
    """As measured; None before."""
    _loading: threading.Lock = field(default_factory=threading.Lock)

    async def encoder(self) -> Encoder:
        """Return the encoder, loading it in its thread if nobody has yet."""
        if self.loaded is None:
            await self.documents.run(self.encoder_now)
        return self.encoder_now()

    def encoder_now(self) -> Encoder:
        """Return the encoder, loading it in the calling thread if nobody has yet."""
        with self._loading:
            if self.loaded is None:
                loaded = self.load()
                if self.priced_by_time and self.pace is None:
                    self.pace = measured(loaded)
                self.loaded = loaded
            return self.loaded

    def unload(self) -> None:
        """Free the model; the next use loads it again. Blocks. Nobody may be at work with it."""
        with self._loading:
            loaded, self.loaded = self.loaded, None
        if loaded is not None:
            loaded.close()

    def close(self) -> None:
        """Stop the threads and free the model."""
        self.queries.close()
        self.documents.close()
        if self.loaded is not None:
            self.loaded.close()


@dataclass(slots=True)
class _Seen:
    """What one request has had encoded by one encoder."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    query: Encoded | None = None
    vectors: dict[int, Vectors] = field(default_factory=dict)
    tokens: dict[int, Vectors] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EncoderJudge:
    """Grades by an encoder, and tells how alike documents are.

    Args:
        seat: the encoder.
        late_interaction: grade by MaxSim over token vectors (ColBERT, arXiv 2004.12832), the mean over the query's
            tokens of the best cosine among the document's; else by the cosine of the pooled vectors.
        with_token_vectors: keep token vectors even if this judge needs none, because another voice of the same
            pipeline will want them.
        prices: of the encoder.
        stored: where recalled documents' vectors are.

    """

    seat: EncoderSeat
    late_interaction: bool
    with_token_vectors: bool = False
    prices: Prices = field(default_factory=Prices)
    stored: StoredVectors | None = None

    @property
    def facts(self) -> JudgeFacts:
        """Who this judge is."""
        loaded = self.seat.loaded
        return JudgeFacts(
            model=self.seat.name,
            revision=loaded.revision if loaded is not None else "",
            answers=frozenset({Grade}) if self.late_interaction else frozenset({Grade, Liken}),
            score_kind=ScoreKind.MAXSIM if self.late_interaction else ScoreKind.COSINE,
            prices=self.prices,
        )

    async def rule(self, case: Case, questions: Sequence[Question[Any]], sink: Sink) -> None:
        """Answer grades slice by slice, as documents are encoded, and likenesses once all of them are.

        Encoding is the work; the answers are a matrix product, and both run in threads.
        """
        asked = time.monotonic()
        seen: _Seen = case.shared.setdefault(("encoded", self.seat.name), _Seen())
        items = sorted({item for question in questions for item in question.items})
        waiting = {index: question.item for index, question in enumerate(questions) if isinstance(question, Grade)}
        spent = _Spending(self.prices)

        def deliver(answers: Mapping[int, Any]) -> None:
            elapsed_s = time.monotonic() - asked
            for index, answer in answers.items():
                # What was spent since the last delivery goes with the first ruling of this one.
                sink.ruled(index, Ruling(answer, spent.taken()), elapsed_s=elapsed_s)

        try:
            encoder = await self._encoder()
            left = True
            while left:
                async with seen.lock:
                    left = await self._see(case, seen, encoder, items, spent, with_query=bool(waiting))
                known = seen.tokens if self.late_interaction else seen.vectors
                ready = {index: item for index, item in waiting.items() if item in known}
                if ready:
                    deliver(await self._graded(seen, ready, spent))
                    for index in ready:
                        del waiting[index]
            spent.add(Usage(cache_hits=len(items) - spent.documents))
            likened = {index: question for index, question in enumerate(questions) if isinstance(question, Liken)}
            if likened:
                rows = await asyncio.to_thread(_likenesses, seen, list(likened.values()))
                deliver({index: rows[question] for index, question in likened.items()})
        finally:
            # The caller has gone, or the encoder failed: what was encoded by then is still paid for.
            rest = spent.taken()
            if rest != _NOTHING:
                sink.spent(rest)

    def estimate(self, case: Case, questions: Sequence[Question[Any]]) -> Usage:
        """Return about what encoding would take: each document once, whoever else looks at it."""
        items = {item for question in questions for item in question.items}
        if not items:
            return _NOTHING
        tokens = _about_tokens(case.query) + sum(_about_tokens(case.candidates[item].text) for item in items)
        slices = -(-len(items) // _SLICE_DOCUMENTS)
        usage = Usage(
            calls=1 + slices,
            pairs=sum(isinstance(question, Grade) for question in questions),
            prompt_tokens=tokens,
        )
        if not self.prices.compute_usd_per_hour:
            return self.prices.charge(usage)
        if self.seat.pace is None:
            # How long it takes is measured when the model is loaded; 0 would be no estimate of it.
            return usage + Usage(cost_nano_usd=None, cost_basis=CostBasis.UNKNOWN)
        # Grades are a pass over vectors for each slice, which takes about as long as one over a word.
        backend_s = self.seat.pace.seconds(usage.calls + slices, usage.prompt_tokens)
        return self.prices.charge(replace(usage, backend_s=backend_s))

    # --- encoding -----------------------------------------------------------------------------------------------

    async def _encoder(self) -> Encoder:
        encoder = await self.seat.encoder()
        if self.late_interaction and not encoder.has_token_vectors:
            raise FailedPrecondition(f"the model {self.seat.name!r} has no token vectors; use scoring = 'cosine'")
        return encoder

    async def _see(
        self, case: Case, seen: _Seen, encoder: Encoder, items: Sequence[int], spent: _Spending, *, with_query: bool
    ) -> bool:
        """Have the query and one more slice of `items` encoded; return whether some are still missing."""
        tokens_wanted = (self.late_interaction or self.with_token_vectors) and encoder.has_token_vectors
        # A stage before may have had use for the pooled vector alone.
        if with_query and (seen.query is None or (tokens_wanted and seen.query.token_vectors is None)):

            def encode() -> Encoded:
                deadline_at.set(case.deadline_at)
                return encoder.encode_queries([case.query], token_vectors=tokens_wanted)

            encoded, queue_s = await self.seat.queries.run(encode)
            spent.encoded(encoded, queue_s, documents=0)
            seen.query = encoded
        missing = [item for item in items if item not in seen.vectors or (tokens_wanted and item not in seen.tokens)]
        missing = await self._fetch_stored(case, seen, missing, spent, tokens_wanted=tokens_wanted)
        if not missing:
            return False
        if case.deadline_at is not None and time.monotonic() >= case.deadline_at:
            raise DeadlineExceeded(
                f"{len(missing)} of {len(items)} documents were not encoded when the deadline passed"
            )
        # By length, so that a slice pads little.
        part = sorted(missing, key=lambda item: len(case.candidates[item].text))[:_SLICE_DOCUMENTS]
        await self._encode(case, seen, encoder, part, spent, tokens_wanted=tokens_wanted)
        return len(missing) > len(part)

    async def _encode(
        self,
        case: Case,
        seen: _Seen,
        encoder: Encoder,
        part: Sequence[int],
        spent: _Spending,
        *,
        tokens_wanted: bool,
    ) -> None:
        texts = [case.candidates[item].text for item in part]
        begun = False

        def encode() -> tuple[Encoded, int]:
            nonlocal begun
            begun = True
            read = [_shortened(text, encoder, case.truncation) for text in texts]
            cut = sum(len(short) < len(text) for short, text in zip(read, texts, strict=True))
            # In the thread of the encoder, whose context is its own.
            deadline_at.set(case.deadline_at)
            return encoder.encode_documents(read, token_vectors=tokens_wanted), cut

        try:
            with spans.opened(
                f"embeddings {self.seat.name}",
                gen_ai__operation__name="embeddings",
                gen_ai__provider__name="podium",
                gen_ai__request__model=self.seat.name,
                podium__documents=len(part),
            ):
                (encoded, cut), queue_s = await self.seat.documents.run(encode)
        except asyncio.CancelledError:
            if begun:  # the thread finishes what it began, and whoever runs the model is paid for it
                characters = sum(map(len, texts))
                spent.add(self.prices.charge(Usage(calls=1, prompt_tokens=characters // _CHARACTERS_PER_TOKEN)))
            raise
        spent.encoded(encoded, queue_s, documents=len(part))
        spent.add(Usage(truncated_documents=cut))
        for place, item in enumerate(part):
            if encoded.token_vectors is not None:
                seen.tokens[item] = encoded.token_vectors[place]
            seen.vectors[item] = encoded.vectors[place]

    async def _fetch_stored(
        self, case: Case, seen: _Seen, missing: list[int], spent: _Spending, *, tokens_wanted: bool
    ) -> list[int]:
        """Take the vectors of recalled documents from the store, and return the items that still need encoding."""
        keys = {item: case.candidates[item].chunk for item in missing}
        chunks = {item: key for item, key in keys.items() if key is not None}
        if self.stored is None or not case.collection or not chunks or case.truncation != Truncation():
            return missing
        begun = time.monotonic()
        order = list(chunks)
        found = list(chunks.values())
        tokens = await self.stored.token_vectors(case.collection, found) if tokens_wanted else None
        if tokens_wanted and tokens is None:
            return missing
        vectors = await self.stored.vectors(case.collection, found)
        for place, item in enumerate(order):
            if tokens is not None:
                seen.tokens[item] = tokens[place]
            seen.vectors[item] = vectors[place]
        spent.add(self.prices.charge(Usage(backend_s=time.monotonic() - begun)))
        return [item for item in missing if item not in chunks]

    async def _graded(self, seen: _Seen, ready: Mapping[int, int], spent: _Spending) -> dict[int, float]:
        """Return the grades of `ready` (index of the question → item), by index."""
        begun = time.monotonic()
        grades = await asyncio.to_thread(self._grades, seen, list(ready.values()))
        spent.add(self.prices.charge(Usage(pairs=len(ready), backend_s=time.monotonic() - begun)))
        return dict(zip(ready, grades, strict=True))

    def _grades(self, seen: _Seen, items: Sequence[int]) -> list[float]:
        assert seen.query is not None
        if self.late_interaction:
            assert seen.query.token_vectors is not None
            scores = maxsim(seen.query.token_vectors[0], [seen.tokens[item] for item in items])
        else:
            scores = np.stack([seen.vectors[item] for item in items]) @ seen.query.vectors[0]
        return [float(score) for score in scores]


_NOTHING = Usage()


class _Spending:
    """Adds up what one ruling takes, priced."""

    def __init__(self, prices: Prices) -> None:
        self.prices = prices
        self.documents = 0
        """Documents encoded for this ruling itself."""
        self._usage = _NOTHING

    def add(self, usage: Usage) -> None:
        self._usage = self._usage + usage

    def taken(self) -> Usage:
        """Return what was added since the last time."""
        usage, self._usage = self._usage, _NOTHING
        return usage

    def encoded(self, encoded: Encoded, queue_s: float, *, documents: int) -> None:
        """Add a pass of the encoder."""
        # What the encoder's own cache answered is no document of ours: it is counted as a hit with the rest.
        self.documents += documents - encoded.cache_hits if documents else 0
        usage = Usage(
            # A pass of a model in this process is a call too; what the cache answered whole is none.
            calls=encoded.calls or int(encoded.prompt_tokens > 0),
            retries=encoded.retries,
            prompt_tokens=encoded.prompt_tokens,
            cache_hits=0 if documents else encoded.cache_hits,
            truncated_documents=sum(encoded.truncated) if documents else 0,
            queue_s=queue_s,
            tokenize_s=encoded.tokenize_s,
            backend_s=encoded.infer_s,
        )
        self.add(self.prices.charge(usage))


def _shortened(text: str, encoder: Encoder, truncation: Truncation) -> str:
    """Return the part of a document that the request wants read: by the model's own tokens where it can count them."""
    if truncation == Truncation():
        return text  # the encoder itself cuts the end off
    most = min(truncation.max_tokens_per_document or encoder.max_tokens, encoder.max_tokens - _SPECIAL_TOKENS)
    # By name: a wrapper has the method where the encoder inside it has, which no class can say.
    token_spans: Callable[[str], Sequence[tuple[int, int]]] | None = getattr(encoder, "token_spans", None)
    if token_spans is not None:
        return shortened(text, most, truncation.side, token_spans)
    characters = most * _CHARACTERS_PER_TOKEN
    return text[:characters] if truncation.side is Side.END else text[-characters:]


def _about_tokens(text: str) -> int:
    """Return about how many tokens a text has, special ones included; a letter that is not ASCII is one by itself."""
    tokens = len(text) // _CHARACTERS_PER_TOKEN + _SPECIAL_TOKENS
    return tokens if text.isascii() else tokens + (len(text.encode("utf-8", "replace")) - len(text)) // 2


def _likenesses(seen: _Seen, questions: Sequence[Liken]) -> dict[Question[Any], tuple[float, ...]]:
    """Return the cosines of each question's item to its others: one product, of the rows that are asked for."""
    if not questions:
        return {}
    items = sorted({item for question in questions for item in question.items})
    column = {item: i for i, item in enumerate(items)}
    row = {item: i for i, item in enumerate(dict.fromkeys(question.item for question in questions))}
    matrix = np.stack([seen.vectors[item] for item in items])
    cosines = matrix[[column[item] for item in row]] @ matrix.T
    return {
        question: tuple(float(cosines[row[question.item], column[other]]) for other in question.others)
        for question in questions
    }
