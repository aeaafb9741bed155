"""Documents that are longer than what a model reads: cut at one end, or read in passages that overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from podium_server.judges.case import Side

Spans: TypeAlias = Callable[[str], Sequence[tuple[int, int]]]
"""Gives [start, end) of each token of a text, in code points."""

LongDocuments: TypeAlias = Literal["cut", "best-passage", "mean-of-top-2"]

OVERLAP_TOKENS = 64
"""Two or three sentences."""

# Read first for each token that is wanted, and at most: enough for nearly every text of any language, and a bound for
# megabytes of blanks.
_CHARACTERS_PER_TOKEN = 16
_CHARACTERS_PER_TOKEN_AT_MOST = 256


@dataclass(frozen=True, slots=True)
class Reading:
    """How documents are read that are longer than the model's window.

    Args:
        long_documents: `cut` reads the beginning alone; the others read passages, and take the best one's score
            (MaxP; Dai and Callan, arXiv 1905.09217) or the mean of the best two.
        passage_tokens: of a passage at most; None is what the query leaves of the window.
        overlap_tokens: that a passage has in common with the one before, so that no sentence is only seen in halves;
            half of a passage at most, where the query leaves it little room.
        passages_max: of one document; what lies behind them is not read, and counted as cut.

    """

    long_documents: LongDocuments = "cut"
    passage_tokens: int | None = None
    overlap_tokens: int = OVERLAP_TOKENS
    passages_max: int = 16

    def __post_init__(self) -> None:
        if self.passage_tokens is not None and self.overlap_tokens > self.passage_tokens // 2:
            raise ValueError(
                f"overlap_tokens is {self.overlap_tokens} and passage_tokens {self.passage_tokens}: "
                "a passage repeats half of the one before at most"
            )
        if self.passages_max < 1:
            raise ValueError(f"passages_max is {self.passages_max}: 1 at least")

    def score(self, scores: Sequence[float]) -> float:
        """Return a document's score from those of its passages, of which there are one at least."""
        if self.long_documents == "mean-of-top-2" and len(scores) > 1:
            best, second = sorted(scores, reverse=True)[:2]
            return (best + second) / 2
        return max(scores)


def shortened(text: str, most: int, side: Side, spans: Spans) -> str:
    """Return at most `most` tokens of a text, without the end that `side` names."""
    if most <= 0:
        return ""
    for per_token in (_CHARACTERS_PER_TOKEN, _CHARACTERS_PER_TOKEN_AT_MOST):
        part = text[: most * per_token] if side is Side.END else text[-most * per_token :]
        found = spans(part)
        if len(found) >= most or len(part) == len(text):
            break
    if len(found) <= most:
        return part
    return part[: found[most - 1][1]] if side is Side.END else part[found[-most][0] :]


def passages(text: str, size: int, overlap: int, at_most: int, spans: Spans) -> tuple[list[str], bool]:
    """Return the passages of a text, and whether something lies behind them.

    Args:
        text: any.
        size: tokens of a passage.
        overlap: tokens that a passage has in common with the one before; less than `size`.
        at_most: passages.
        spans: tells tokens.

    """
    wanted = size + (at_most - 1) * (size - overlap)
    head = text[: wanted * _CHARACTERS_PER_TOKEN]
    found = spans(head)
    if len(found) < wanted and len(head) < len(text):
        head = text[: wanted * _CHARACTERS_PER_TOKEN_AT_MOST]
        found = spans(head)
    cut = len(found) > wanted or len(head) < len(text)
    found = found[:wanted]
    if not found:
        return [head], cut
    return [head[found[start][0] : found[stop - 1][1]] for start, stop in windows(len(found), size, overlap)], cut


def windows(n: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Return [start, stop) of the windows over `n` tokens; the last one ends where they do, and is no shorter."""
    if n <= size:
        return [(0, n)]
    starts = range(0, n - size, size - overlap)
    return [*((start, start + size) for start in starts), (n - size, n)]
