"""The contract that every cross-encoder keeps, in five methods: what a batch may hold, pairs, spans, scores, the end.

A cross-encoder is called off the event loop. `pairs` and `spans` may run in several threads at the same time, `score`
in as many as `capacity.lanes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from podium_server.backends.encoders.encoder import Floats

ScoreScale: TypeAlias = Literal["logit", "probability"]
"""What a model's number is. A logit is unbounded; a probability has had its sigmoid, and gets no second one."""

PASSAGE_TOKENS_MIN = 16
"""A query may not push a passage further out than that; it loses its own end first."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and a passage as one model sees them.

    Args:
        tokens: that the model reads, special tokens and template included: what the pair costs.
        truncated: whether the model does not see the passage's end.
        input: the backend's own form of it.

    """

    tokens: int
    truncated: bool
    input: Any


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one model takes at a time on this machine. Measured when it is loaded, not guessed.

    Args:
        lanes: batches that run side by side.
        padded_tokens: of one batch at most: pairs × the longest of them. A longer pair is a batch alone.
        pairs: of one batch at most.
        tokens_per_s: padded tokens a second of all lanes together, at batches of that size.

    """

    lanes: int
    padded_tokens: int
    pairs: int
    tokens_per_s: float


class CrossEncoder(Protocol):
    """A model that reads a query and a passage together and says how well they match."""

    @property
    def name(self) -> str:
        """The configured name."""

    @property
    def revision(self) -> str:
        """A hash of all that decides a score: weights, tokenizer, template, cut, precision."""

    @property
    def scale(self) -> ScoreScale:
        """What its scores are."""

    @property
    def max_tokens(self) -> int:
        """The most tokens of a pair that it sees."""

    @property
    def capacity(self) -> Capacity:
        """What it takes at a time."""

    def pairs(self, query: str, passages: Sequence[str], *, instruction: str = "") -> list[Pair]:
        """Make a pair of the query with each passage, cut to `max_tokens`: the passage's end goes first.

        Args:
            query: any string, lone surrogates (read as U+FFFD) included.
            passages: likewise, empty ones included.
            instruction: what counts as relevant, for models whose template has a place for it; others ignore it.

        """

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return [start, end) of each token in code points of `text`, ascending, without special tokens."""

    def score(self, batch: Sequence[Pair]) -> Floats:
        """Return (pairs,) float32, in the order given. Blocks; pads to the longest of the batch and no further.

        Raises:
            BackendDown: the model failed, or gave what is no number.

        """

    def close(self) -> None:
        """Free the model. No call may follow; calls under way end first or fail."""
