"""Scores of any kind into those that a dialect promises: from 0 to 1, and never higher further down.

A client sorts by the score, cuts by it and shows it, so it has to say what the order says. What a model gave is turned
into 0 to 1 where its kind has a scale: a probability stays, a logit goes through the logistic function, once, a cosine
c becomes (1 + c) / 2. Sums of ranks, points, grades and orders without scores have no such scale: their documents get
a score by place, and the answer says so. So does the tail behind documents with scores of their own, which are all
below theirs (a cascade that keeps 10 scores 10).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from podium.v1 import ranking_pb2

Kind: TypeAlias = ranking_pb2.ScoreKind.ValueType


def logistic(logit: float) -> float:
    """Return the probability of a logit."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    raised = math.exp(logit)
    return raised / (1.0 + raised)


def _half(cosine: float) -> float:
    return min(1.0, max(0.0, (1.0 + cosine) / 2))


def _probability(given: float) -> float:
    return min(1.0, max(0.0, given))


SCALES: Mapping[Kind, Callable[[float], float]] = {
    ranking_pb2.SCORE_KIND_PROBABILITY: _probability,
    ranking_pb2.SCORE_KIND_LOGIT: logistic,
    ranking_pb2.SCORE_KIND_COSINE: _half,
    ranking_pb2.SCORE_KIND_MAXSIM: _half,
}
# One document's score says nothing of another list: neither do these kinds without theirs.
WITHIN_A_LIST = frozenset(
    {
        ranking_pb2.SCORE_KIND_NONE,
        ranking_pb2.SCORE_KIND_FUSED,
        ranking_pb2.SCORE_KIND_POINTS,
        ranking_pb2.SCORE_KIND_MARGINAL,
        ranking_pb2.SCORE_KIND_PRIOR,
    }
)


class Scores(NamedTuple):
    """What to tell of each document of a ranking, and where it comes from.

    Args:
        values: for each of the ranking, never higher further down.
        kind: of the scores at the head.
        own: how many at the head are the models' own; the rest go by place.

    """

    values: Sequence[float]
    kind: Kind
    own: int

    @property
    def said(self) -> str:
        """Where they come from, for a header: `logit`, `place`, or `logit=10, place=90`."""
        name = kind_name(self.kind)
        if self.own == len(self.values):
            return name
        return f"{name}={self.own}, place={len(self.values) - self.own}" if self.own else "place"


def kind_name(kind: Kind) -> str:
    """Return `logit` for SCORE_KIND_LOGIT."""
    return ranking_pb2.ScoreKind.Name(kind).removeprefix("SCORE_KIND_").lower()


def scores(ranking: Sequence[ranking_pb2.RankedDocument], documents: int, *, raw: bool = False) -> Scores:
    """Return the scores of a ranking.

    Args:
        ranking: the best first; all, or the best of them. A score does not depend on how many are shown.
        documents: how many were ranked.
        raw: as the models gave them, on whatever scale; places go on below the last of them.

    """
    kind = ranking[0].score_kind if ranking else ranking_pb2.SCORE_KIND_NONE
    scale = (lambda given: given) if raw else SCALES.get(kind)
    values: list[float] = []
    last = math.inf
    for ranked in ranking if scale is not None else ():
        if ranked.score_kind != kind or not ranked.HasField("score"):
            break
        value = scale(ranked.score)  # type: ignore[misc]  # the loop has no round otherwise
        if not math.isfinite(value) or value > last:
            break
        values.append(value)
        last = value
    own = len(values)
    left = documents - own
    for place in range(len(ranking) - own):
        if not own:
            values.append((documents - place) / documents)
        elif raw:
            values.append(last - 1 - place)
        else:
            values.append(last * (left - place) / (left + 1))
    return Scores(values, kind, own)
