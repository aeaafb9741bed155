"""What a ranking did wrong, document by document, so that a figure can be looked into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DEPTH = 10
"""Ranks that count as the top."""


@dataclass(frozen=True, slots=True)
class Mistakes:
    """One system's order of one list beside the first stage's, in the first `DEPTH` ranks.

    Args:
        demoted: relevant documents that left the top although one of a lower grade stands there now.
        promoted: documents judged irrelevant that came into the top although a relevant candidate stands outside.
        unjudged: documents without a judgment that came into the top: nobody can say whether they belong there.
        nothing_there: no candidate is relevant, so that no order of them could have been better.

    """

    demoted: tuple[str, ...]
    promoted: tuple[str, ...]
    unjudged: tuple[str, ...]
    nothing_there: bool


def classify(first: Sequence[str], order: Sequence[str], grades: Mapping[str, int], *, depth: int = DEPTH) -> Mistakes:
    """Return what an order did wrong.

    Args:
        first: docids as they came.
        order: docids as the system put them; empty where it failed, which is no mistake of order.
        grades: docid → grade; above 0 is relevant, and what is not in it is not judged.
        depth: ranks that count as the top.

    """
    # A system that recalls for itself has candidates that did not come.
    candidates = tuple(dict.fromkeys((*first, *order)))
    nothing_there = not any(grades.get(docid, 0) > 0 for docid in candidates)
    before, top = set(first[:depth]), order[:depth]
    if not top:
        return Mistakes((), (), (), nothing_there)
    within = set(top)
    lowest = min(grades.get(docid, 0) for docid in top)
    left = [docid for docid in first[:depth] if docid not in within]
    came = [docid for docid in top if docid not in before]
    waiting = any(grades.get(docid, 0) > 0 for docid in candidates if docid not in within)
    return Mistakes(
        demoted=tuple(docid for docid in left if grades.get(docid, 0) > max(0, lowest)),
        promoted=tuple(docid for docid in came if docid in grades and grades[docid] <= 0 and waiting),
        unjudged=tuple(docid for docid in came if docid not in grades),
        nothing_there=nothing_there,
    )
