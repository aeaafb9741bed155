"""TrueSkill for one game in which everybody plays alone (Herbrich, Minka and Graepel, NIPS 2006).

Skills are normal beliefs. A player's performance is its skill and noise; "a stood before b" says that the performance
of a exceeds that of b by a margin. Between neighbours of the ruling these statements are passed to and fro until they
agree (expectation propagation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import erfc, exp, pi, sqrt
from statistics import NormalDist

MEAN = 25.0
"""Of a player of whom nothing is known. The other constants are on its scale."""
NOISE = MEAN / 6
"""Standard deviation of a performance around a skill (the paper's beta)."""
DRIFT = MEAN / 300
"""Standard deviation by which a skill may change between two games (the paper's tau)."""
MARGIN = NormalDist().inv_cdf((0.1 + 1) / 2) * sqrt(2) * NOISE
"""Difference in performance below which two players draw, where a tenth of games between equals are drawn."""


@dataclass(frozen=True, slots=True)
class Belief:
    """A normal belief, by precision and precision times mean: these add where beliefs are combined."""

    precision: float = 0.0
    weighted: float = 0.0

    @classmethod
    def of(cls, mean: float, variance: float) -> Belief:
        return cls(1.0 / variance, mean / variance)

    @property
    def mean(self) -> float:
        return self.weighted / self.precision if self.precision else 0.0

    @property
    def variance(self) -> float:
        return 1.0 / self.precision if self.precision else float("inf")

    def __mul__(self, other: Belief) -> Belief:
        return Belief(self.precision + other.precision, self.weighted + other.weighted)

    def __truediv__(self, other: Belief) -> Belief:
        return Belief(self.precision - other.precision, self.weighted - other.weighted)

    def blurred(self, variance: float) -> Belief:
        """Return the belief in this quantity and independent noise together."""
        return Belief.of(self.mean, self.variance + variance) if self.precision > 0 else Belief()


def exceeding(difference: Belief, margin: float) -> Belief:
    """Return the normal belief nearest to `difference`, given that it exceeds `margin`."""
    deviation = sqrt(difference.variance)
    gap = (difference.mean - margin) / deviation
    tail = 0.5 * erfc(-gap / sqrt(2))
    if tail > 1e-300:
        pull = exp(-gap * gap / 2) / sqrt(2 * pi) / tail
        shrink = pull * (pull + gap)
    else:  # both tend to this where the tail is too small to divide by
        pull = -gap - 1 / gap
        shrink = 1 - 1 / gap**2
    return Belief.of(difference.mean + deviation * pull, difference.variance * max(1.0 - shrink, 1e-9))


def rated(ruling: Sequence[NormalDist]) -> list[NormalDist]:
    """Return the beliefs in the skills of players after a game; players stand in the order of the ruling."""
    skills = [Belief.of(skill.mean, skill.variance + DRIFT**2) for skill in ruling]
    performances = [skill.blurred(NOISE**2) for skill in skills]
    from_above = [Belief()] * len(ruling)  # what a player's performance learns from whoever stands before it
    from_below = [Belief()] * len(ruling)
    statements = [Belief()] * (len(ruling) - 1)  # what each difference between neighbours learns from the ruling

    def compare(i: int) -> float:
        """Let neighbours i and i + 1 learn from each other; return by how much what they learn has changed."""
        better = performances[i] * from_above[i]
        worse = performances[i + 1] * from_below[i + 1]
        difference = Belief.of(better.mean - worse.mean, better.variance + worse.variance)
        before = statements[i]
        statements[i] = exceeding(difference, MARGIN) / difference
        gap = statements[i]
        from_below[i] = Belief.of(worse.mean + gap.mean, worse.variance + gap.variance)
        from_above[i + 1] = Belief.of(better.mean - gap.mean, better.variance + gap.variance)
        return max(abs(gap.weighted - before.weighted), abs(gap.precision - before.precision))

    pairs = range(len(statements))
    for _ in range(10):
        changes = [compare(i) for i in (*pairs, *reversed(pairs[:-1]))]
        if max(changes, default=0.0) < 1e-4:
            break
    learnt = [(above * below).blurred(NOISE**2) for above, below in zip(from_above, from_below, strict=True)]
    return [
        NormalDist(belief.mean, sqrt(belief.variance))
        for belief in (skill * news for skill, news in zip(skills, learnt, strict=True))
    ]
