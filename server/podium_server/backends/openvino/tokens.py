"""Makes tokens, quickly for texts of any length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from podium_server.backends.encoders.encoder import (
    CHARACTERS_PER_TOKEN,
    CHARACTERS_PER_TOKEN_AT_MOST,
    beginning,
    well_formed,
)
from podium_server.errors import ConfigInvalid

TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class Cut:
    """One text as the model sees it; `content` are the places of tokens that are neither special nor the prefix's."""

    ids: list[int]
    content: NDArray[np.intp]
    truncated: bool


def read_tokenizer(file: Path) -> Tokenizer:
    """Read a `tokenizer.json`, without its padding and truncation.

    Raises:
        ConfigInvalid: it is none.

    """
    try:
        tokenizer = Tokenizer.from_file(str(file))
    # The library raises a bare Exception for a file that it cannot read, and has no other.
    except Exception as error:  # noqa: BLE001
        raise ConfigInvalid(f"{file} is not a tokenizer: {error}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    # "[SEP]" within a text is five letters that somebody wrote, not the end of it.
    tokenizer.encode_special_tokens = True
    return tokenizer


class Tokens:
    """Makes tokens of single texts.

    Args:
        file: a `tokenizer.json`.
        max_tokens: cut texts to that many.
        special: put the model's special tokens around them, and count them.

    Raises:
        ConfigInvalid: the file is no tokenizer.

    """

    def __init__(self, file: Path, max_tokens: int, *, special: bool = True) -> None:
        self._tokenizer = read_tokenizer(file)
        self._tokenizer.enable_truncation(max_tokens)
        self._max_tokens = max_tokens
        self._special = special
        self._prefix_tokens: dict[str, int] = {"": 0}

    def __call__(self, texts: Sequence[str], prefix: str = "") -> list[Cut]:
        """Return the beginnings of texts, of which no more characters are read than it takes."""
        of_prefix = self._prefix_tokens.get(prefix)
        if of_prefix is None:
            encoding = self._tokenizer.encode(prefix.rstrip(), add_special_tokens=False)
            of_prefix = self._prefix_tokens[prefix] = len(encoding.ids)
        cuts: list[Cut | None] = [None] * len(texts)
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
        return cast("list[Cut]", cuts)

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
            return [self._tokenizer.encode(texts[0], add_special_tokens=self._special)]
        encodings: list[Encoding] = self._tokenizer.encode_batch_fast(texts, add_special_tokens=self._special)
        return encodings


def _cut(encoding: Encoding, of_prefix: int, *, unread: bool) -> Cut:
    content = np.flatnonzero(np.asarray(encoding.special_tokens_mask) == 0)[of_prefix:]
    return Cut(encoding.ids, content, unread or bool(encoding.overflowing))
