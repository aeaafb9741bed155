"""The judge of grades that reads the query and each document together, by a cross-encoder in this process.

A question is a document, whose pairs (one, or one a passage) go to the batches that all requests share. In the ledger a
call is one pair, since a batch belongs to several requests and is nobody's: calls, pairs and tokens of a request are
the same however busy the model is. `backend_s` is the request's part of its batches, of all lanes together, so that it
adds up to the time of the machine; `queue_s` is the time in which the request waited and nothing of it was at work.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias

from podium_server.accounting.prices import Prices
from podium_server.accounting.usage import CostBasis, Usage
from podium_server.backends.cross_encoders.batcher import Batcher
from podium_server.backends.cross_encoders.cross_encoder import CrossEncoder, Pair
from podium_server.backends.cross_encoders.place import Part, Place
from podium_server.backends.cross_encoders.score_cache import Entry, keys_of
from podium_server.backends.cross_encoders.seat import CrossEncoderSeat
from podium_server.errors import FailedPrecondition
from podium_server.judges.case import Case, Side, Truncation
from podium_server.judges.judge import JudgeFacts, Ruling, ScoreKind, Sink
from podium_server.judges.passages import Reading, passages, shortened
from podium_server.telemetry import spans
from podium_strategies.plan import Grade, Question

Score: TypeAlias = Literal["logit", "probability"]

# Documents whose tokens are made at a time: one that stands behind a list of thousands waits for so many.
_SLICE_DOCUMENTS = 64

# More documents than that are looked up in a thread: to hash them takes longer than to go there.
_LOOKED_UP_AT_ONCE = 128

# Only for estimates: English in the common vocabularies, special tokens, a usual window.
_CHARACTERS_PER_TOKEN = 4
_SPECIAL_TOKENS = 3
_WINDOW_TOKENS = 512

# A passage made of a document's tokens may come out a token or two longer when it is read by itself.
_SLACK_TOKENS = 2
_LEAST_PASSAGE_TOKENS = 8


@dataclass(frozen=True, slots=True)
class CrossEncoderJudge:
    """Grades documents by a cross-encoder.

    Args:
        seat: the model, its queue and its memory.
        reading: of documents that are longer than its window.
        score: "probability" applies the sigmoid to the scores of a model that gives logits; None passes on what the
            model gives.
        prices: of the model.

    """

    seat: CrossEncoderSeat
    reading: Reading = field(default_factory=Reading)
    score: Score | None = None
    prices: Prices = field(default_factory=Prices)

    @property
    def facts(self) -> JudgeFacts:
        """Who this judge is. What only the loaded model knows is empty until it is."""
        encoder = self.seat.loaded.encoder if self.seat.loaded is not None else None
        scale = self.score or (encoder.scale if encoder is not None else None)
        return JudgeFacts(
            model=self.seat.name,
            revision=encoder.revision if encoder is not None else "",
            answers=frozenset({Grade}),
            score_kind=ScoreKind.NONE if scale is None else ScoreKind(scale),
            prices=self.prices,
        )

    async def rule(self, case: Case, questions: Sequence[Question[Any]], sink: Sink) -> None:
        """Answer what is remembered at once, and the rest as batches end."""
        asked = time.monotonic()
        spent = _Spending(self.prices)
        indices: dict[int, list[int]] = {}
        for index, question in enumerate(questions):
            indices.setdefault(question.items[0], []).append(index)
        try:
            batcher = await self.seat.batcher()
            grade = self._grade(batcher.encoder)
            by_key, known = await self._looked_up(case, batcher.encoder, list(indices))

            def deliver(key: bytes, entry: Entry, *, asked_model: bool) -> None:
                items = by_key[key]
                answers = [index for item in items for index in indices[item]]
                spent.add(
                    Usage(
                        cache_hits=len(answers) - asked_model,
                        truncated_documents=len(items) if entry.truncated else 0,
                    )
                )
                for index in answers:
                    # What was spent since the last delivery goes with the first ruling of this one.
                    sink.ruled(index, Ruling(grade(entry.score), spent.taken()), elapsed_s=time.monotonic() - asked)

            for key, entry in known.items():
                deliver(key, entry, asked_model=False)
            missing = {key: case.candidates[by_key[key][0]].text for key in by_key if key not in known}
            if missing:
                await self._score(case, batcher, missing, spent, deliver)
        finally:
            # The caller has gone, or the model failed: what was computed by then is still paid for.
            rest = spent.taken()
            if rest != _NOTHING:
                sink.spent(rest)

    def estimate(self, case: Case, questions: Sequence[Question[Any]]) -> Usage:
        """Return about what scoring would take, each document once, with nothing remembered. Loads no model."""
        items = {item for question in questions for item in question.items}
        if not items:
            return _NOTHING
        pairs, tokens = self._expected(case, (case.candidates[item].text for item in items))
        usage = Usage(calls=pairs, pairs=pairs, prompt_tokens=tokens)
        tokens_per_s = self.seat.tokens_per_s
        if tokens_per_s is not None:
            return self.prices.charge(
                Usage(calls=pairs, pairs=pairs, prompt_tokens=tokens, backend_s=tokens / tokens_per_s)
            )
        if self.prices.compute_usd_per_hour:
            # How long it takes is measured when the model is loaded; 0 would be no estimate of it.
            return usage + Usage(cost_nano_usd=None, cost_basis=CostBasis.UNKNOWN)
        return self.prices.charge(usage)

    # --- scoring ------------------------------------------------------------------------------------------------

    def _grade(self, encoder: CrossEncoder) -> Callable[[float], float]:
        """Return what makes a grade of the model's score."""
        if self.score is None or self.score == encoder.scale:
            return float
        if self.score == "logit":
            raise FailedPrecondition(
                f"score is 'logit', and the model {self.seat.name!r} gives probabilities, whose sigmoid cannot be "
                "taken back; leave score out"
            )
        return sigmoid

    async def _looked_up(
        self, case: Case, encoder: CrossEncoder, items: Sequence[int]
    ) -> tuple[dict[bytes, list[int]], dict[bytes, Entry]]:
        """Return the items of each key, and the entries that are remembered."""
        said = (encoder.revision, repr(self.reading), repr(case.truncation), case.query, case.instruction)

        def look() -> tuple[dict[bytes, list[int]], dict[bytes, Entry]]:
            by_key: dict[bytes, list[int]] = {}
            for item, key in zip(items, keys_of(said, (case.candidates[i].text for i in items)), strict=True):
                by_key.setdefault(key, []).append(item)
            return by_key, self.seat.cache.get(by_key)

        return look() if len(items) <= _LOOKED_UP_AT_ONCE else await asyncio.to_thread(look)

    async def _score(
        self,
        case: Case,
        batcher: Batcher,
        missing: dict[bytes, str],
        spent: _Spending,
        deliver: Callable[..., None],
    ) -> None:
        """Have the model score documents, and deliver each as its last pair is scored."""
        with spans.opened(
            f"rerank {self.seat.name}",
            gen_ai__operation__name="rerank",
            gen_ai__provider__name="podium",
            gen_ai__request__model=self.seat.name,
            podium__documents=len(missing),
        ):
            await self._score_now(case, batcher, missing, spent, deliver)

    async def _score_now(
        self,
        case: Case,
        batcher: Batcher,
        missing: dict[bytes, str],
        spent: _Spending,
        deliver: Callable[..., None],
    ) -> None:
        _, tokens = self._expected(case, missing.values())
        place = batcher.admit(tokens, pairs=len(missing), deadline_at=case.deadline_at)
        try:
            with place:
                sheet = await self._sheet(case, batcher.encoder, missing, spent)
                await self._put(place, sheet.pairs)
                while parts := await place.scored():
                    for part in parts:
                        spent.scored(part)
                        done = sheet.entered(part, self.reading)
                        self.seat.cache.put(done)
                        for key, entry in done:
                            deliver(key, entry, asked_model=True)
        finally:
            spent.abandoned(place)

    async def _put(self, place: Place, pairs: Sequence[Pair]) -> None:
        if len(pairs) <= _LOOKED_UP_AT_ONCE:
            place.put(pairs)
        else:  # they are sorted, which takes a while
            await asyncio.to_thread(place.put, pairs)

    async def _sheet(self, case: Case, encoder: CrossEncoder, missing: dict[bytes, str], spent: _Spending) -> _Sheet:
        """Make the pairs of all documents, slice by slice, so that others get their turn in between."""
        maker = _PairMaker(encoder, case.query, case.instruction, case.truncation, self.reading)
        sheet = _Sheet()
        keys = list(missing)
        for begin in range(0, len(keys), _SLICE_DOCUMENTS):
            part = keys[begin : begin + _SLICE_DOCUMENTS]
            texts = [missing[key] for key in part]
            (made, took_s), queue_s = await self.seat.tokenizer.run(partial(_timed, maker, texts))
            spent.add(Usage(queue_s=queue_s, tokenize_s=took_s))
            for key, document in zip(part, made, strict=True):
                sheet.add(key, document)
        return sheet

    # --- estimates ----------------------------------------------------------------------------------------------

    def _expected(self, case: Case, texts: Iterable[str]) -> tuple[int, int]:
        """Return about how many pairs these documents make, and how many tokens these have."""
        window = self.seat.max_tokens or _WINDOW_TOKENS
        if self.seat.loaded is not None:
            window = self.seat.loaded.encoder.max_tokens
        frame = min(len(case.query) // _CHARACTERS_PER_TOKEN + _SPECIAL_TOKENS, window - 1)
        room = window - frame
        size = min(self.reading.passage_tokens or room, room)
        step = max(1, size - min(self.reading.overlap_tokens, size // 2))
        whole = self.reading.long_documents == "cut" or size < _LEAST_PASSAGE_TOKENS
        most = case.truncation.max_tokens_per_document
        pairs = tokens = 0
        for text in texts:
            length = len(text) // _CHARACTERS_PER_TOKEN + 1
            if most is not None:
                length = min(length, most)
            if whole or length <= size:
                count, length = 1, min(length, room)
            else:
                count = min(1 + -(-(length - size) // step), self.reading.passages_max)
                length = min(length + (count - 1) * (size - step), count * size)
            pairs += count
            tokens += length + count * frame
        return pairs, tokens


@dataclass(frozen=True, slots=True)
class _Document:
    """One document as the model reads it: its pairs, and whether something of it is in none of them."""

    pairs: list[Pair]
    truncated: bool


@dataclass(slots=True)
class _Open:
    """A document whose scores are coming in."""

    key: bytes
    truncated: bool
    left: int
    scores: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Sheet:
    """The pairs of one request, and whose they are."""

    pairs: list[Pair] = field(default_factory=list)
    owners: list[_Open] = field(default_factory=list)

    def add(self, key: bytes, document: _Document) -> None:
        """Add a document's pairs."""
        self.pairs += document.pairs
        self.owners += [_Open(key, document.truncated, len(document.pairs))] * len(document.pairs)

    def entered(self, part: Part, reading: Reading) -> list[tuple[bytes, Entry]]:
        """Enter scores, and return the documents that have all of theirs now."""
        done = []
        for place, score in zip(part.places, part.scores, strict=True):
            owner = self.owners[place]
            owner.scores.append(score)
            owner.left -= 1
            if not owner.left:
                done.append((owner.key, Entry(reading.score(owner.scores), owner.truncated)))
        return done


class _PairMaker:
    """Makes the pairs of documents with one query. In the tokenizer's thread."""

    def __init__(
        self, encoder: CrossEncoder, query: str, instruction: str, truncation: Truncation, reading: Reading
    ) -> None:
        self._encoder = encoder
        self._query = query
        self._instruction = instruction
        self._truncation = truncation
        self._reading = reading
        self._frame_tokens: int | None = None

    def __call__(self, texts: Sequence[str]) -> list[_Document]:
        shorter = [self._shortened(text) for text in texts]
        whole = self._pairs(shorter)
        made = []
        for text, short, pair in zip(texts, shorter, whole, strict=True):
            if self._reading.long_documents == "cut" or not self._is_long(pair):
                made.append(_Document([pair], pair.truncated or len(short) < len(text)))
            else:
                made.append(self._in_passages(short, already_cut=len(short) < len(text)))
        return made

    def _pairs(self, passages: Sequence[str]) -> list[Pair]:
        return self._encoder.pairs(self._query, passages, instruction=self._instruction)

    @property
    def _frame(self) -> int:
        """Tokens of a pair with an empty passage."""
        if self._frame_tokens is None:
            self._frame_tokens = self._pairs([""])[0].tokens
        return self._frame_tokens

    @property
    def _room(self) -> int:
        """Tokens that a passage may have beside the query."""
        return self._encoder.max_tokens - self._frame

    def _shortened(self, text: str) -> str:
        """Return the part of a document that the request wants read."""
        most, side = self._truncation.max_tokens_per_document, self._truncation.side
        if most is None and side is Side.END:
            return text  # the model's own cut is at the end
        if self._reading.long_documents == "cut":
            most = self._room if most is None else min(most, self._room)
        if most is None or len(text) <= most // _TOKENS_PER_CHARACTER:
            return text
        return shortened(text, most, side, self._encoder.spans)

    def _is_long(self, pair: Pair) -> bool:
        size = self._reading.passage_tokens
        return pair.truncated or (size is not None and pair.tokens - self._frame > size)

    def _in_passages(self, text: str, *, already_cut: bool) -> _Document:
        size = min(self._reading.passage_tokens or self._room, self._room - _SLACK_TOKENS)
        if size < _LEAST_PASSAGE_TOKENS:  # the query fills the window
            [pair] = self._pairs([text])
            return _Document([pair], truncated=True)
        overlap = min(self._reading.overlap_tokens, size // 2)
        parts, cut = passages(text, size, overlap, self._reading.passages_max, self._encoder.spans)
        pairs = self._pairs(parts)
        return _Document(pairs, cut or already_cut or pairs[-1].truncated)


# A code point makes at most so many tokens: its bytes in UTF-8.
_TOKENS_PER_CHARACTER = 4

_NOTHING = Usage()


class _Spending:
    """Adds up what one ruling takes."""

    def __init__(self, prices: Prices) -> None:
        self._prices = prices
        self._usage = _NOTHING

    def add(self, usage: Usage) -> None:
        self._usage = self._usage + usage

    def scored(self, part: Part) -> None:
        """Add a part of a batch."""
        pairs = len(part.places)
        self.add(
            Usage(
                calls=pairs,
                pairs=pairs,
                prompt_tokens=part.tokens,
                queue_s=part.queue_s,
                backend_s=part.backend_s,
            )
        )

    def abandoned(self, place: Place) -> None:
        """Add what has gone unread: batches that had ended, and those at work."""
        for part in place.parts:
            self.scored(part)
        pairs, tokens, backend_s = place.abandoned
        if pairs:
            self.add(Usage(calls=pairs, pairs=pairs, prompt_tokens=tokens, backend_s=backend_s))

    def taken(self) -> Usage:
        """Return what was added since the last time, priced."""
        usage, self._usage = self._usage, _NOTHING
        return self._prices.charge(usage)


def sigmoid(logit: float) -> float:
    """Return the probability of a logit."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    power = math.exp(max(logit, -745.0))
    return power / (1.0 + power)


def _timed(maker: _PairMaker, texts: Sequence[str]) -> tuple[list[_Document], float]:
    begun = time.perf_counter()
    made = maker(texts)
    return made, time.perf_counter() - begun
