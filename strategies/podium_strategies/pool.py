"""What a strategy may know of the candidates: how many there are, and numbers about them. Never a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pool:
    """Candidates 0 … n-1, in first-stage order: item 0 is the one that the stage before thinks best.

    Args:
        n: how many there are.
        scores: of the stage before, by item, higher is better; None where it gave none.
        lengths_tokens: of the texts, by item; None where nobody counted.
        seed: for whatever a strategy shuffles. The same pool and seed give the same plan.

    """

    n: int
    scores: tuple[float, ...] | None = None
    lengths_tokens: tuple[int, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ValueError(f"a pool of {self.n} candidates")
        for name, values in (("scores", self.scores), ("lengths_tokens", self.lengths_tokens)):
            if values is not None and len(values) != self.n:
                raise ValueError(f"a pool of {self.n} candidates with {len(values)} {name}")

    def take(self, items: Sequence[int], scores: tuple[float, ...] | None = None) -> Pool:
        """Return the pool of `items`, in that order, with `scores` of the stage that chose them."""
        lengths = self.lengths_tokens
        return Pool(
            n=len(items),
            scores=scores,
            lengths_tokens=None if lengths is None else tuple(lengths[i] for i in items),
            seed=self.seed,
        )
