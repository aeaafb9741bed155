"""From a query and passages to token ids, for the models that torch runs: one way for each kind of model.

The tokenizer is a copy of the model's own, with neither truncation nor padding set, so that threads share it: the
library's own wrapper changes it at every call.
"""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from podium_server.backends.cross_encoders.cross_encoder import PASSAGE_TOKENS_MIN, Pair
from podium_server.backends.cross_encoders.templates import Template
from podium_server.backends.encoders.encoder import (
    CHARACTERS_PER_TOKEN,
    CHARACTERS_PER_TOKEN_AT_MOST,
    beginning,
    well_formed,
)
from podium_server.errors import ConfigInvalid

_LEAST_ROOM_TOKENS = 2 * PASSAGE_TOKENS_MIN
"""For a query and a passage, beside a template; less is a limit that somebody mistyped."""
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class TokenIds:
    """What a model reads of one pair; `segments` number the text that a token belongs to, where a model asks."""

    ids: Sequence[int]
    segments: Sequence[int] | None = None


class Pairing(Protocol):
    """One way to make token ids of pairs, and a batch of these."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Reads any text, without special tokens being looked for in it."""

    @property
    def identity(self) -> str:
        """All that decides the ids."""

    def __call__(self, query: str, passages: Sequence[str], instruction: str) -> list[Pair]:
        """Make pairs; see `CrossEncoder.pairs`."""


def own_tokenizer(of_transformers: Any) -> Tokenizer:
    """Return a copy of what is under a tokenizer of transformers, which no other code changes.

    Raises:
        ConfigInvalid: there is only Python under it.

    """
    backend = getattr(of_transformers, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ConfigInvalid(f"the tokenizer {type(of_transformers).__name__} is none of the library tokenizers")
    tokenizer = Tokenizer.from_str(backend.to_str())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    # "[SEP]" within a text is five letters that somebody wrote, not the end of it.
    tokenizer.encode_special_tokens = True
    return tokenizer


def spans_of(tokenizer: Tokenizer, text: str) -> list[tuple[int, int]]:
    """Return [start, end) of each token in code points of `text`; those of a part of one code point share it."""
    # One for one, so that the places stay what they are.
    readable = text if text.isascii() else _SURROGATE.sub("\ufffd", text)
    offsets = tokenizer.encode(readable, add_special_tokens=False).offsets
    return [(start, end) for start, end in offsets if start < end]


def padded(batch: Sequence[TokenIds], *, pad_id: int, left: bool) -> dict[str, NDArray[np.int64]]:
    """Return what a model takes: (pairs, longest) ids, mask, and segments or positions where they are needed.

    Args:
        batch: the pairs; at least one. All have segments, or none.
        pad_id: stands where no token is, and is masked.
        left: pad before the tokens, for models that are read at their last place.

    """
    longest = max(len(pair.ids) for pair in batch)
    given = {"input_ids": np.full((len(batch), longest), pad_id, np.int64)}
    given["attention_mask"] = np.zeros_like(given["input_ids"])
    if batch[0].segments is not None:
        given["token_type_ids"] = np.zeros_like(given["input_ids"])
    for row, pair in enumerate(batch):
        count = len(pair.ids)
        at = slice(longest - count, longest) if left else slice(0, count)
        given["input_ids"][row, at] = pair.ids
        given["attention_mask"][row, at] = 1
        if pair.segments is not None:
            given["token_type_ids"][row, at] = pair.segments
    if left:
        # Said, since some models count from the first column: a pair would score otherwise in another batch.
        given["position_ids"] = np.maximum(given["attention_mask"].cumsum(axis=1) - 1, 0)
    return given


class ClassifierPairs:
    """Pairs of a classifier: whatever special tokens its tokenizer puts around two texts."""

    def __init__(self, of_transformers: Any, max_tokens: int) -> None:
        self.tokenizer = own_tokenizer(of_transformers)
        self._max_tokens = max_tokens
        self._segments = "token_type_ids" in of_transformers.model_input_names
        self._room = max_tokens - self.tokenizer.num_special_tokens_to_add(True)
        if self._room < _LEAST_ROOM_TOKENS:
            raise ConfigInvalid(
                f"max_tokens is {max_tokens}; with the model's special tokens it must be "
                f"{max_tokens - self._room + _LEAST_ROOM_TOKENS} or more"
            )
        self.identity = f"classifier {self.tokenizer.to_str()}"

    def __call__(self, query: str, passages: Sequence[str], instruction: str) -> list[Pair]:
        """Make pairs; a classifier takes no instruction."""
        [(asked, unasked)] = _encodings(self.tokenizer, [query], self._room)
        made = []
        for passage, unread in _encodings(self.tokenizer, passages, self._room):
            of_query, of_passage = _shares(len(asked.ids), len(passage.ids), self._room)
            truncated = unasked or unread or of_query < len(asked.ids) or of_passage < len(passage.ids)
            both = self.tokenizer.post_process(_first(asked, of_query), _first(passage, of_passage))
            segments = both.type_ids if self._segments else None
            made.append(Pair(len(both.ids), truncated, TokenIds(both.ids, segments)))
        return made


class TemplatePairs:
    """Pairs of a language model in its authors' template, in the pieces that their code tokenizes."""

    def __init__(self, of_transformers: Any, template: Template, max_tokens: int) -> None:
        self.tokenizer = own_tokenizer(of_transformers)
        self._template = template
        around = Tokenizer.from_str(self.tokenizer.to_str())
        around.encode_special_tokens = False
        pieces = template.pieces("")
        self._before = _ids(around, pieces.prefix)
        if not template.chatml and of_transformers.bos_token_id not in (None, of_transformers.pad_token_id):
            self._before = [of_transformers.bos_token_id]
        self._after = [each for piece in pieces.rest for each in _ids(self.tokenizer, piece)]
        self._after += _ids(around, pieces.suffix)
        labels = sum(len(_ids(self.tokenizer, piece)) for piece in (*pieces.query, pieces.label))
        self._least = PASSAGE_TOKENS_MIN + len(_ids(self.tokenizer, pieces.label))
        self._room = max_tokens - len(self._before) - len(self._after)
        if self._room < labels + _LEAST_ROOM_TOKENS:
            raise ConfigInvalid(
                f"max_tokens is {max_tokens}; beside the template {template.prompt_name!r} it must be "
                f"{max_tokens - self._room + labels + _LEAST_ROOM_TOKENS} or more"
            )
        self.identity = f"{template} {template.prompt.digest} {self.tokenizer.to_str()}"

    def __call__(self, query: str, passages: Sequence[str], instruction: str) -> list[Pair]:
        """Make pairs; the instruction stands where the template has a place for one."""
        at_most = self._room * CHARACTERS_PER_TOKEN_AT_MOST
        pieces = self._template.pieces(
            well_formed(beginning(query, at_most)), well_formed(beginning(instruction, at_most))
        )
        asked, *between = (_ids(self.tokenizer, piece) for piece in pieces.query)
        apart = [each for piece in between for each in piece]
        unasked = max(len(query), len(instruction)) > at_most
        room = self._room - len(apart)
        made = []
        for passage, unread in _encodings(self.tokenizer, passages, self._room, shown=self._shown(pieces.label)):
            of_query, of_passage = _shares(len(asked), len(passage.ids), room, least=self._least)
            # Where the newline is a part of what is cut, it stays.
            kept = asked[:of_query] if apart or of_query == len(asked) else [*asked[: of_query - 1], asked[-1]]
            ids = [*self._before, *kept, *apart, *passage.ids[:of_passage], *self._after]
            truncated = unasked or unread or of_query < len(asked) or of_passage < len(passage.ids)
            made.append(Pair(len(ids), truncated, TokenIds(ids)))
        return made

    def _shown(self, label: str) -> Callable[[str], str]:
        return lambda text: label + self._template.passage_text(text)


class NativePairs:
    """Pairs of a model whose own files say how sentence-transformers prepares them."""

    def __init__(self, encoder: Any, max_tokens: int) -> None:
        self.tokenizer = own_tokenizer(encoder.tokenizer)
        self._encoder = encoder
        self._max_tokens = max_tokens
        encoder.max_seq_length = max_tokens
        self._one_at_a_time = threading.Lock()
        prepared = encoder.preprocess([["", ""]])
        # What the model is told beside tensors: of which kind the input is, and how many logits are wanted.
        self.beside = {key: prepared[key] for key in ("modality", "logits_to_keep") if key in prepared}
        chat = getattr(encoder.tokenizer, "chat_template", None)
        self.identity = f"native {encoder} {encoder.prompts} {chat} {self.tokenizer.to_str()}"
        empty = int(prepared["attention_mask"].sum())
        if max_tokens < empty + _LEAST_ROOM_TOKENS:
            raise ConfigInvalid(
                f"max_tokens is {max_tokens}; with what the model puts around a pair it must be "
                f"{empty + _LEAST_ROOM_TOKENS} or more"
            )

    def __call__(self, query: str, passages: Sequence[str], instruction: str) -> list[Pair]:
        """Make pairs; the instruction is the library's prompt, and the model's own prompt stands where it is empty."""
        if not passages:
            return []
        at_most = self._max_tokens * CHARACTERS_PER_TOKEN_AT_MOST
        asked = well_formed(beginning(query, at_most))
        texts = [[asked, well_formed(beginning(passage, at_most))] for passage in passages]
        prompt = well_formed(instruction) or self._own_prompt()
        rows = self._rows(texts, prompt, cut=True)
        full = [i for i, row in enumerate(rows) if len(row.ids) >= self._max_tokens]
        whole = self._rows([texts[i] for i in full], prompt, cut=False) if full else []
        longer = {i for i, row in zip(full, whole, strict=True) if len(row.ids) > self._max_tokens}
        return [
            Pair(len(row.ids), i in longer or max(len(query), len(passages[i])) > at_most, row)
            for i, row in enumerate(rows)
        ]

    def _rows(self, texts: list[list[str]], prompt: str | None, *, cut: bool) -> list[TokenIds]:
        # The wrapper keeps whether to cut in the tokenizer, which refuses to be changed while it is read.
        with self._one_at_a_time:
            made = self._encoder.preprocess(
                texts, prompt=prompt, processing_kwargs=None if cut else {"text": {"truncation": False}}
            )
        mask = made["attention_mask"].bool()
        segments = made.get("token_type_ids")
        return [
            TokenIds(
                made["input_ids"][row][mask[row]].tolist(),
                None if segments is None else segments[row][mask[row]].tolist(),
            )
            for row in range(len(texts))
        ]

    def _own_prompt(self) -> str | None:
        name = self._encoder.default_prompt_name
        return None if name is None else self._encoder.prompts[name]


def _shares(query: int, passage: int, room: int, *, least: int = PASSAGE_TOKENS_MIN) -> tuple[int, int]:
    """Return how many tokens of a query and of a passage stand in `room`: the passage loses its end first.

    Args:
        query: its tokens.
        passage: its tokens.
        room: for both.
        least: that a passage keeps, where it has so many, however long the query is.

    """
    of_query = min(query, room - min(least, passage))
    return of_query, min(passage, room - of_query)


def _first(encoding: Encoding, tokens: int) -> Encoding:
    if tokens < len(encoding.ids):
        encoding = copy.deepcopy(encoding)  # the query's is needed again for the next passage
        encoding.truncate(tokens)
    return encoding


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def _encodings(
    tokenizer: Tokenizer, texts: Sequence[str], tokens: int, *, shown: Callable[[str], str] = str
) -> list[tuple[Encoding, bool]]:
    """Return the tokens of each text's beginning, enough for `tokens` of them, and whether there is text beyond.

    Args:
        tokenizer: without special tokens.
        texts: of any length; of a long one only as much is read as can be seen.
        tokens: wanted of each at most.
        shown: what is made of a text before it is read.

    """
    found: list[tuple[Encoding, bool]] = [(Encoding(), False)] * len(texts)
    left: Sequence[int] = range(len(texts))
    at_most = tokens * CHARACTERS_PER_TOKEN_AT_MOST
    for characters in (tokens * CHARACTERS_PER_TOKEN, at_most):
        heads = [shown(well_formed(beginning(texts[i], characters))) for i in left]
        again = []
        for i, encoding in zip(left, tokenizer.encode_batch(heads, add_special_tokens=False), strict=True):
            unread = len(texts[i]) > characters
            # So few tokens in so many characters: blanks, or very long words. There may be more to see.
            if unread and len(encoding.ids) < tokens and characters < at_most:
                again.append(i)
            else:
                found[i] = (encoding, unread)
        left = again
    return found
