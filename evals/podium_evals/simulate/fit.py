"""Fits the noise model to recorded rankers: Plackett–Luce over what they saw, with a lasting opinion of each document.

A recorded reply is a whole order of a window. Its probability is Plackett–Luce's (every next document is chosen with
odds exp(score) among those that are left, so that two documents stand in log-odds of their scores' difference), and a
document's score in a call is

    opinion + position_slope · (1/2 − place) + position_edges · (4 (place − 1/2)² − 1/3),      place from 0 to 1,

where the opinion is the same in every window that shows the document: utility of its grade + length · ln(words over the
median) + first_stage · z(first-stage score) + a deviation from N(0, persistent²). The unit is that of the Gumbel noise
of one call, which is 1. The opinions are integrated out by Laplace's approximation, a query at a time; that a window
was made of an earlier window's answer does no harm to it, because all answers are in the likelihood. Standard errors
are sandwiches over the queries.

Replies that repeat the order shown, and malformed ones, are counted and left out of the likelihood.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

from podium_strategies.prompts.prompt import MALFORMED, Repair, Sheet, UnreadableReply
from podium_strategies.prompts.rank_vicuna import RANK_VICUNA

Floats = NDArray[np.float64]

PARAMETERS = (
    "grade_1",
    "grade_2",
    "grade_3",
    "length",
    "first_stage",
    "position_slope",
    "position_edges",
    "ln_persistent",
)
STEPS_MAX = 60
STEP = 1e-4
"""Of the numerical derivatives: the likelihood is smooth, and its inner optimum is solved to a billionth."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One recorded call.

    Args:
        qid: of the query.
        shown: docids in the order shown.
        said: the reply's text.

    """

    qid: str
    shown: tuple[str, ...]
    said: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What the model knows of a candidate: its grade (None is not judged), words, and first-stage score."""

    grade: int | None
    words: int
    score: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A parameter with its standard error."""

    value: float
    error: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a recording shows.

    Args:
        name: of the recording.
        replies: how many.
        echoed: of these, how many repeat the order shown.
        malformed: by kind, those that lack labels.
        used: replies in the likelihood.
        estimates: by parameter; empty where too few replies carry an opinion.
        log_likelihood: at the optimum, in nats; that of guessing is `guessing`.
        guessing: of the same replies.
        agreement: by difference of grades, (pairs that stand as the grades say, pairs) over the used replies.

    """

    name: str
    replies: int
    echoed: int
    malformed: dict[str, int]
    used: int
    estimates: dict[str, Estimate]
    log_likelihood: float
    guessing: float
    agreement: dict[int, tuple[int, int]]

    @property
    def persistent(self) -> Estimate:
        """Return the deviation of opinions itself, from its logarithm."""
        ln = self.estimates["ln_persistent"]
        return Estimate(float(np.exp(ln.value)), float(np.exp(ln.value)) * ln.error)


@dataclass(slots=True)
class _Data:
    """All windows of a recording, as arrays. Documents are numbered through; a query's stand side by side."""

    features: Floats  # (documents, 5): grade 1, 2, 3, length, first stage
    query_of: NDArray[np.int64]  # (documents,)
    start_of: NDArray[np.int64]  # (queries,): its first document
    sizes: NDArray[np.int64]  # (queries,)
    windows: NDArray[np.int64]  # (windows, size): documents in the order of the reply
    places: Floats  # (windows, size): where each was shown, 0 to 1
    query_of_window: NDArray[np.int64]
    opinions: Floats  # (documents,): the inner optimum last found, to start from


def fit(name: str, replies: Sequence[Reply], facts: Mapping[str, Mapping[str, Facts]]) -> Fitted:
    """Fit the model to one recording.

    Args:
        name: for the report.
        replies: of one window size.
        facts: qid → docid → what is known.

    """
    orders, echoed, malformed = _read(replies)
    agreed = agreement(replies, facts)
    guessing = -sum(float(np.log(np.arange(1, len(order) + 1)).sum()) for _, order in orders)
    counts = dict(sorted(malformed.items()))
    if len(orders) < 10 * len(PARAMETERS):
        return Fitted(name, len(replies), echoed, counts, len(orders), {}, guessing, guessing, agreed)
    data = _arrays(orders, facts)
    theta, likelihood = _ascend(data)
    errors = _errors(data, theta)
    estimates = {
        key: Estimate(float(value), float(error)) for key, value, error in zip(PARAMETERS, theta, errors, strict=True)
    }
    return Fitted(name, len(replies), echoed, counts, len(orders), estimates, likelihood, guessing, agreed)


def _read(replies: Sequence[Reply]) -> tuple[list[tuple[Reply, tuple[int, ...]]], int, Counter[str]]:
    """Return the replies that carry an opinion with their orders (places from 0), and count the others."""
    orders = []
    echoed = 0
    malformed: Counter[str] = Counter()
    for reply in replies:
        n = len(reply.shown)
        try:
            reading = RANK_VICUNA.read(reply.said, Sheet("", ("",) * n))
        except UnreadableReply:
            malformed[Repair.UNREADABLE.value] += 1
            continue
        if reading.repair in MALFORMED:
            malformed[reading.repair.value] += 1
        elif reading.answer == tuple(range(n)):
            echoed += 1
        else:
            orders.append((reply, reading.answer))
    return orders, echoed, malformed


def agreement(replies: Sequence[Reply], facts: Mapping[str, Mapping[str, Facts]]) -> dict[int, tuple[int, int]]:
    """Return, by difference of grades, (pairs that stand as the grades say, pairs) of the replies with an opinion."""
    right: Counter[int] = Counter()
    pairs: Counter[int] = Counter()
    for reply, order in _read(replies)[0]:
        grades = [facts[reply.qid][reply.shown[place]].grade or 0 for place in order]
        for i, grade in enumerate(grades):
            for other in grades[i + 1 :]:
                pairs[abs(grade - other)] += grade != other
                right[abs(grade - other)] += grade > other
    return {difference: (right[difference], pairs[difference]) for difference in sorted(pairs) if difference}


def _arrays(orders: Sequence[tuple[Reply, tuple[int, ...]]], facts: Mapping[str, Mapping[str, Facts]]) -> _Data:
    qids = sorted({reply.qid for reply, _ in orders})
    number = {}
    rows: list[list[float]] = []
    query_of: list[int] = []
    for place, qid in enumerate(qids):
        known = facts[qid]
        median = float(np.median([fact.words for fact in known.values()]))
        scores = np.array([fact.score for fact in known.values()])
        scores = (scores - scores.mean()) / (scores.std() or 1.0)
        for (docid, fact), score in zip(known.items(), scores, strict=True):
            number[qid, docid] = len(rows)
            grade = fact.grade or 0
            graded = [float(grade == level) for level in (1, 2, 3)]
            rows.append([*graded, log(max(fact.words, 1) / median), float(score)])
            query_of.append(place)
    windows = np.array([[number[reply.qid, reply.shown[place]] for place in order] for reply, order in orders])
    places = np.array([[place / (len(order) - 1) for place in order] for _, order in orders])
    owners = np.array(query_of)
    sizes = np.bincount(owners, minlength=len(qids))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    query_of_window = np.array([qids.index(reply.qid) for reply, _ in orders])
    return _Data(
        np.array(rows), owners, starts, sizes, windows, places, query_of_window, np.zeros(len(rows), dtype=np.float64)
    )


# --- the likelihood -------------------------------------------------------------------------------------------------


def likelihoods(data: _Data, theta: Floats) -> Floats:
    """Return each query's marginal log-likelihood: (queries,) float64."""
    means = data.features @ theta[:5]
    precision = float(np.exp(-2 * theta[7]))
    shifts = theta[5] * (0.5 - data.places) + theta[6] * (4 * (data.places - 0.5) ** 2 - 1 / 3)
    opinions = data.opinions + 0.0
    for _ in range(50):
        gradient, hessian, _ = _windows(data, opinions, shifts)
        gradient -= precision * (opinions - means)
        step = _solve(data, hessian, gradient, precision)
        opinions += np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-9:
            break
    data.opinions = opinions
    _, hessian, by_window = _windows(data, opinions, shifts)
    queries = len(data.sizes)
    total: Floats = np.bincount(data.query_of_window, by_window, minlength=queries).astype(np.float64)
    deviation = (opinions - means) ** 2
    total -= 0.5 * precision * np.bincount(data.query_of, deviation, minlength=queries)
    # Laplace: the normal's own constant cancels all of the determinant but this.
    padded = _padded(data, hessian, precision)
    total += 0.5 * (data.sizes * np.log(precision) - np.linalg.slogdet(padded)[1])
    return total


def _windows(data: _Data, opinions: Floats, shifts: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the gradient (documents,), the windows' own Hessians (windows, size, size), and log-likelihoods."""
    scores = opinions[data.windows] + shifts
    scores = scores - scores.max(axis=1, keepdims=True)
    weights = np.exp(scores)
    left = np.cumsum(weights[:, ::-1], axis=1)[:, ::-1]  # of those from this place of the reply on
    size = scores.shape[1]
    chances = np.triu(np.ones((size, size))) * weights[:, None, :] / left[:, :, None]
    chances[:, -1, :] = 0.0  # the last one is no choice
    gradient = 1.0 - chances.sum(axis=1)
    gradient[:, -1] -= 1.0
    total: Floats = np.bincount(data.windows.ravel(), gradient.ravel(), minlength=len(opinions)).astype(np.float64)
    hessian = np.einsum("wj,ij->wij", chances.sum(axis=1), np.eye(size)) - np.matmul(
        chances.transpose(0, 2, 1), chances
    )
    return total, hessian, (scores - np.log(left)).sum(axis=1)


def _padded(data: _Data, hessian: Floats, precision: float) -> Floats:
    """Return the queries' negative Hessians, (queries, most, most), with ones where a query has no document."""
    most = int(data.sizes.max())
    full = np.zeros((len(data.sizes), most, most))
    local = data.windows - data.start_of[data.query_of_window][:, None]
    np.add.at(full, (data.query_of_window[:, None, None], local[:, :, None], local[:, None, :]), hessian)
    diagonal = np.arange(most)
    full[:, diagonal, diagonal] += np.where(diagonal < data.sizes[:, None], precision, 1.0)
    return full


def _solve(data: _Data, hessian: Floats, gradient: Floats, precision: float) -> Floats:
    full = _padded(data, hessian, precision)
    right = np.zeros(full.shape[:2])
    local = np.arange(len(data.query_of)) - data.start_of[data.query_of]
    right[data.query_of, local] = gradient
    return np.asarray(np.linalg.solve(full, right[:, :, None])[:, :, 0][data.query_of, local])


# --- the outer optimum ----------------------------------------------------------------------------------------------


def _scores(data: _Data, theta: Floats) -> Floats:
    """Return each query's gradient, (queries, parameters), by central differences."""
    columns = []
    for place in range(len(theta)):
        step = np.zeros(len(theta))
        step[place] = STEP
        columns.append((likelihoods(data, theta + step) - likelihoods(data, theta - step)) / (2 * STEP))
    return np.stack(columns, axis=1)


def _ascend(data: _Data) -> tuple[Floats, float]:
    """Climb by the outer product of the scores (BHHH), with the step halved until it gains."""
    theta = np.array([0.5, 1.0, 1.5, 0.0, 0.0, 0.0, 0.0, 0.0])
    best = float(likelihoods(data, theta).sum())
    for _ in range(STEPS_MAX):
        scores = _scores(data, theta)
        direction = np.linalg.solve(scores.T @ scores + 1e-6 * np.eye(len(theta)), scores.sum(axis=0))
        gain, scale = 0.0, 1.0
        while scale > 1e-3:
            likelihood = float(likelihoods(data, theta + scale * direction).sum())
            gain = likelihood - best
            if gain > 0:
                theta, best = theta + scale * direction, likelihood
                break
            scale /= 2
        if gain < 1e-5:
            break
    return theta, best


def _errors(data: _Data, theta: Floats) -> Floats:
    """Return standard errors: the sandwich of the numerical Hessian around the queries' scores."""
    scores = _scores(data, theta)
    wide = 1e-3
    rows = []
    for place in range(len(theta)):
        step = np.zeros(len(theta))
        step[place] = wide
        rows.append((_scores(data, theta + step).sum(axis=0) - _scores(data, theta - step).sum(axis=0)) / (2 * wide))
    bread = np.linalg.inv(-np.array(rows))
    return np.sqrt(np.diag(bread @ (scores.T @ scores) @ bread.T))
