"""Passages: long documents are cut with overlap, at the ends of sentences where one is near, else between words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from podium_server.recall.document import Document

Spans: TypeAlias = Callable[[str], Sequence[tuple[int, int]]]
"""Where the tokens of a text stand: [start, end) in code points, ascending."""

_PIECE = re.compile(
    "[\u0e00-\u0eff\u1000-\u11ff\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7ff\U00020000-\U0003ffff]|\\w{1,6}|[^\\w\\s]"
)
_SENTENCE_END = re.compile("[.!?…]['\")\\]»”’]*$|[。！？．｡]+[」』”’）]*$|\n$")

_TITLE_SHARE = 4
"""A title takes at most this part of a passage: a quarter."""


def estimated_spans(text: str) -> Sequence[tuple[int, int]]:
    """Return about where a word-piece tokenizer would cut: a letter of an unspaced script, or six of others.

    English text has 1.0 to 1.3 word pieces for each of these.
    """
    return [piece.span() for piece in _PIECE.finditer(text)]


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document that is embedded and ranked by itself.

    Args:
        start: where it begins in `Document.full_text`, in code points.
        end: the first code point that is not in it.
        text: what is embedded and judged: the title, a line feed, the part; or the full text where it is one passage.
        whole: whether it is the only passage of its document.

    """

    start: int
    end: int
    text: str
    whole: bool


@dataclass(frozen=True, slots=True)
class Chunker:
    """Cuts documents into passages.

    Args:
        max_tokens: of a passage, title included.
        overlap_tokens: that two neighbours share at least, as far as boundaries of words allow.
        spans: of tokens.

    """

    max_tokens: int
    overlap_tokens: int
    spans: Spans

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or not 0 <= 2 * self.overlap_tokens < self.max_tokens:
            raise ValueError(f"overlap_tokens {self.overlap_tokens} is not below half of max_tokens {self.max_tokens}")

    def passages(self, document: Document) -> list[Passage]:
        """Return the passages of a document that is not empty, in order; together they cover its text."""
        full = document.full_text
        # No token is empty, and no tokenizer needs to see a short text to know that it is one.
        if len(full) <= self.max_tokens or len(self.spans(full)) <= self.max_tokens:
            return [Passage(0, len(full), full, whole=True)]
        title, body_at = self._title(document, full)
        spans = [(start + body_at, end + body_at) for start, end in self.spans(full[body_at:])]
        budget = max(self.max_tokens - len(self.spans(title)), 1)
        overlap = min(self.overlap_tokens, (budget - 1) // 2)
        passages: list[Passage] = []
        first = 0
        while True:
            last = min(first + budget, len(spans))
            if last < len(spans):
                last = self._boundary(full, spans, first, last)
            start = spans[first][0] if passages else body_at
            end = spans[last][0] if last < len(spans) else len(full)
            part = full[start:end].strip()
            if part:
                passages.append(Passage(start, end, f"{title}\n{part}" if title else part, whole=False))
            if last >= len(spans):
                return passages
            first = self._word_start(full, spans, max(last - overlap, first + 1), last)

    def _title(self, document: Document, full: str) -> tuple[str, int]:
        """Return the title as it is put before each passage, and where the text behind it begins."""
        title = document.title.strip()
        if not title:
            return "", 0
        room = self.max_tokens // _TITLE_SHARE
        spans = self.spans(title)
        if len(spans) > room:
            title = title[: spans[room - 1][1]] if room else ""
            return title, 0
        # Read once, not twice, where it is the beginning of the text.
        at = len(document.title) + 1
        leads = document.fields[0][1] == document.title and len(full) > at and full[at:].strip()
        return title, at if leads else 0

    @staticmethod
    def _boundary(full: str, spans: Sequence[tuple[int, int]], first: int, last: int) -> int:
        """Return the token before which to cut: after a sentence in the last third, else between words in it."""
        earliest = first + max((last - first) * 2 // 3, 1)
        for cut in range(last, earliest, -1):
            if (
                _SENTENCE_END.search(full[max(spans[cut - 1][1] - 4, 0) : spans[cut - 1][1]])
                or "\n" in full[spans[cut - 1][1] : spans[cut][0]]
            ):
                return cut
        for cut in range(last, earliest, -1):
            if spans[cut - 1][1] < spans[cut][0]:
                return cut
        return last

    @staticmethod
    def _word_start(full: str, spans: Sequence[tuple[int, int]], wanted: int, last: int) -> int:
        """Return the token to begin with: the first of a word, at or after `wanted`, before `last` if there is one."""
        for first in range(wanted, last):
            if spans[first - 1][1] < spans[first][0]:
                return first
        return wanted
