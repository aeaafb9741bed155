"""From labels to training examples: rows for sentence-transformers, conversations for listwise models, and qrels.

Every function yields plain rows, one at a time; `labels.export` writes them. What cannot become an example is counted
in `Skipped`, never passed over in silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, TypeAlias

from podium_server.errors import FailedPrecondition
from podium_server.labels.format import Label, LabelledDocument

Row: TypeAlias = dict[str, Any]
Values: TypeAlias = Literal["auto", "scores", "linear", "reciprocal", "grades"]

VALUES: tuple[Values, ...] = ("auto", "scores", "linear", "reciprocal", "grades")
GRADE_RANKS = (1, 5, 10)
"""The last rank of each grade, from the highest grade down: rank 1 is grade 3, 2 to 5 is 2, 6 to 10 is 1, others 0."""


@dataclass(slots=True)
class Skipped:
    """What was left out of an export, by the reason."""

    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str, number: int = 1) -> None:
        """Count."""
        if number:
            self.reasons[reason] += number


@dataclass(frozen=True, slots=True)
class Selection:
    """Which labels become examples, and how much of each.

    Args:
        agreement_min: labels whose mean Kendall's tau is lower are left out, and so are those without any; None takes
            all.
        unrepaired: leave labels out of which a reply had to be mended.
        top: only the first so many of a ranking; None takes all.

    """

    agreement_min: float | None = None
    unrepaired: bool = False
    top: int | None = None

    def __post_init__(self) -> None:
        if self.agreement_min is not None and not -1 <= self.agreement_min <= 1:
            raise ValueError(f"agreement_min is {self.agreement_min}: -1 to 1")
        if self.top is not None and self.top < 1:
            raise ValueError(f"top is {self.top}: at least 1")

    def of(self, labels: Iterable[Label], skipped: Skipped) -> Iterator[Label]:
        """Yield the labels that are wanted."""
        for label in labels:
            if reason := self._against(label):
                skipped.add(reason)
            else:
                yield label

    def ranks(self, label: Label) -> int:
        """Return how many of a label's ranks are wanted."""
        return len(label.order) if self.top is None else min(self.top, len(label.order))

    def _against(self, label: Label) -> str:
        if self.agreement_min is not None:
            if label.agreement is None:
                return "labels without an agreement (podium label --shuffles)"
            if label.agreement.kendall_tau < self.agreement_min:
                return f"labels with an agreement below {self.agreement_min:g}"
        return "labels with a repaired reply" if self.unrepaired and label.repaired else ""


# --- values ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Valuation:
    """Turns a label into numbers that a loss can learn.

    Args:
        kind: `scores`: the teacher's own; `linear`: 1 at the first rank, falling by 1/n; `reciprocal`: 1/rank;
            `grades`: whole numbers by `grade_ranks`; `auto`: scores where every candidate has one, else linear.
        grade_ranks: the last rank of each grade, from the highest grade down.

    """

    kind: Values = "auto"
    grade_ranks: tuple[int, ...] = GRADE_RANKS

    def __post_init__(self) -> None:
        if self.kind not in VALUES:
            raise ValueError(f"values are {self.kind!r}: one of {', '.join(VALUES)}")
        check_grade_ranks(self.grade_ranks)

    def by_rank(self, label: Label) -> list[float] | None:
        """Return a value for each rank; None where the teacher's scores are wanted and not all there."""
        n = len(label.order)
        scores = [label.scores[place] for place in label.order] if label.scores else []
        known = [float(score) for score in scores if score is not None]
        scored = n > 0 and len(known) == n
        match self.kind:
            case "scores":
                return known if scored else None
            case "auto" if scored:
                return known
            case "reciprocal":
                return [1.0 / rank for rank in range(1, n + 1)]
            case "grades":
                return [float(grade_of_rank(rank, self.grade_ranks)) for rank in range(1, n + 1)]
        return [1.0 - (rank - 1) / n for rank in range(1, n + 1)]


def check_grade_ranks(ranks: Sequence[int]) -> None:
    """Refuse what is no rising row of ranks.

    Raises:
        ValueError: with the ranks.

    """
    if not ranks or ranks[0] < 1 or any(one >= other for one, other in pairwise(ranks)):
        raise ValueError(f"grade ranks are {', '.join(map(str, ranks)) or 'none'}: rising, from 1 on, at least one")


def grade_of_rank(rank: int, grade_ranks: Sequence[int] = GRADE_RANKS) -> int:
    """Return the grade of a rank (from 1): the highest one whose last rank is not passed, 0 behind all."""
    return sum(rank <= last for last in grade_ranks)


def grade_of_score(score: float, thresholds: Sequence[float]) -> int:
    """Return the grade of a score: how many of the thresholds it reaches."""
    return sum(score >= threshold for threshold in thresholds)


# --- tables for sentence-transformers -----------------------------------------------------------------------------


def listwise(labels: Iterable[Label], selection: Selection, values: Valuation, skipped: Skipped) -> Iterator[Row]:
    """Yield `{"query", "docs", "labels"}`: what ListNet, ListMLE, RankNet and LambdaLoss of sentence-transformers read.

    Documents stand best first. No other column: the trainer would take it for another input.
    """
    for label in selection.of(labels, skipped):
        worth = values.by_rank(label)
        n = selection.ranks(label)
        if worth is None:
            skipped.add("labels without a score for every candidate")
        elif n < 2:
            skipped.add("labels with fewer than 2 candidates")
        else:
            yield {"query": label.query, "docs": [text_of(one) for one in label.ranking[:n]], "labels": worth[:n]}


def pointwise(labels: Iterable[Label], selection: Selection, values: Valuation, skipped: Skipped) -> Iterator[Row]:
    """Yield `{"query", "document", "label"}`, a row a candidate: for binary cross-entropy and mean squared error."""
    for label in selection.of(labels, skipped):
        worth = values.by_rank(label)
        if worth is None:
            skipped.add("labels without a score for every candidate")
            continue
        for document, value in zip(label.ranking[: selection.ranks(label)], worth, strict=False):
            yield {"query": label.query, "document": text_of(document), "label": value}


def triplets(
    labels: Iterable[Label],
    selection: Selection,
    values: Valuation,
    skipped: Skipped,
    *,
    positives: int = 1,
    negatives: int = 8,
) -> Iterator[Row]:
    """Yield `{"anchor", "positive", "negative", "label"}`: what MarginMSE reads (arXiv 2010.02666).

    The first `positives` of a ranking are each set against `negatives` of the others, spread evenly over the ranks
    behind; `label` is the margin between the two values. Pairs whose margin is 0 teach nothing and are left out.
    """
    if positives < 1 or negatives < 1:
        raise ValueError(f"positives is {positives} and negatives is {negatives}: at least 1 each")
    for label in selection.of(labels, skipped):
        worth = values.by_rank(label)
        n = selection.ranks(label)
        if worth is None:
            skipped.add("labels without a score for every candidate")
            continue
        if n <= positives:
            skipped.add(f"labels with no candidate behind the first {positives}")
        ranked = label.ranking
        for better in range(min(positives, n)):
            for worse in spread(positives, n, negatives):
                margin = worth[better] - worth[worse]
                if margin <= 0:
                    skipped.add("pairs without a margin")
                    continue
                yield _triplet(label, ranked[better], ranked[worse], margin)


def verdict_triplets(labels: Iterable[Label], selection: Selection, skipped: Skipped) -> Iterator[Row]:
    """Yield triplets as `triplets` does, of the pairs that the teacher judged.

    `label` is how much surer than a tie the teacher is, 0 to 1, the mean over both orders. A pair that was shown in one
    order only, and one whose winner changes with the order, is left out: its verdict is about the place.
    """
    for label in selection.of(labels, skipped):
        wanted = set(label.order[: selection.ranks(label)])
        seen: dict[tuple[int, int], list[float]] = {}
        for verdict in label.verdicts:
            seen.setdefault((verdict.first, verdict.second), []).append(verdict.first_wins)
        if not seen:
            skipped.add("labels without verdicts on pairs")
        for (a, b), forward in sorted(seen.items()):
            backward = seen.get((b, a))
            if backward is None:
                skipped.add("pairs shown in one order only")
                continue
            if a > b:
                continue
            as_first, as_second = sum(forward) / len(forward), 1 - sum(backward) / len(backward)
            if (as_first - 0.5) * (as_second - 0.5) <= 0:
                skipped.add("pairs whose winner changes with the order")
                continue
            if not {a, b} <= wanted:
                continue
            win = (as_first + as_second) / 2
            better, worse = (a, b) if win > 0.5 else (b, a)
            yield _triplet(label, label.documents[better], label.documents[worse], round(abs(2 * win - 1), 6))


def spread(start: int, stop: int, number: int) -> list[int]:
    """Return at most `number` whole numbers of `range(start, stop)`, spread evenly, the first one always among them."""
    there = max(0, stop - start)
    taken = min(number, there)
    return [start + i * there // taken for i in range(taken)]


def _triplet(label: Label, better: LabelledDocument, worse: LabelledDocument, margin: float) -> Row:
    return {"anchor": label.query, "positive": text_of(better), "negative": text_of(worse), "label": margin}


# --- TREC -----------------------------------------------------------------------------------------------------------


def qrels(
    labels: Iterable[Label],
    selection: Selection,
    skipped: Skipped,
    *,
    grade_ranks: Sequence[int] = GRADE_RANKS,
    thresholds: Sequence[float] | None = None,
) -> Iterator[str]:
    """Yield lines of a TREC qrels file, `qid 0 docid grade`, in the order of each ranking.

    Args:
        labels: to be graded.
        selection: of them.
        skipped: counts what has no line.
        grade_ranks: the last rank of each grade, from the highest grade down; see `grade_of_rank`.
        thresholds: grade by the teacher's scores instead: the score that each grade needs, from the highest down.

    """
    check_grade_ranks(grade_ranks)
    for label in selection.of(labels, skipped):
        worth = Valuation("scores").by_rank(label) if thresholds is not None else None
        if thresholds is not None and worth is None:
            skipped.add("labels without a score for every candidate")
            continue
        for rank, document in enumerate(label.ranking[: selection.ranks(label)], start=1):
            names = (str(label.qid), str(document.docid))
            if any(len(name.split()) != 1 for name in names):
                skipped.add("candidates whose id has a space, which qrels cannot carry")
                continue
            if thresholds is not None and worth is not None:
                grade = grade_of_score(worth[rank - 1], thresholds)
            else:
                grade = grade_of_rank(rank, grade_ranks)
            yield f"{names[0]} 0 {names[1]} {grade}"


def text_of(document: LabelledDocument) -> str:
    """Return what a candidate says.

    Raises:
        FailedPrecondition: the label file was written without texts.

    """
    if document.text is None:
        raise FailedPrecondition(
            f"the candidate {document.docid!r} has no text, because the labels were written with --no-texts; label "
            "again without it"
        )
    return document.text
