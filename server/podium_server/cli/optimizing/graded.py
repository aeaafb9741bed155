"""Lists to calibrate with and to measure on, and the judgments that there are of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podium_server.errors import InvalidRequest
from podium_server.jobs import lists
from podium_server.jobs.ndcg import ndcg


@dataclass(frozen=True, slots=True)
class Graded:
    """A list with the grades of its candidates, by place; None for those that nobody judged."""

    qid: str
    query: str
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    grades: tuple[float | None, ...]


def read_lists(path: str, *, limit: int | None = None) -> list[Graded]:
    """Return the lists of a file, with the grades (`rel`) that their candidates have.

    Raises:
        InvalidRequest: a line is no list, or none is there.
        OSError: the file cannot be read.

    """
    grades: list[tuple[float | None, ...]] = []

    def parse(raw: bytes, number: int, seal: int) -> lists.Line:
        line = lists.parse_line(raw, number, seal)
        if isinstance(line, lists.CandidateList):
            grades.append(tuple(_grade(each.get("rel")) for each in json.loads(raw)["candidates"]))
        return line

    found = []
    for line in lists.opened(path, limit=limit, parse=parse):
        if isinstance(line, lists.BadLine):
            raise InvalidRequest(f"{path}:{line.line}", line.message)
        if line.texts:
            found.append(Graded(str(line.qid), line.query, line.ids, line.texts, grades[-1]))
    if not found:
        raise InvalidRequest(path, "has no list with candidates")
    return found


def _grade(given: Any) -> float | None:
    return float(given) if isinstance(given, int | float) and not isinstance(given, bool) else None


def judgments(
    measured_on: Sequence[Graded], judged: dict[str, dict[str, float]] | None
) -> dict[int, Callable[[NDArray[np.float32]], float]]:
    """Return, for each list with something relevant, what makes an nDCG of its scores."""

    def measure(grades: list[float], known: list[float]) -> Callable[[NDArray[np.float32]], float]:
        # Of equal scores the first stays before.
        return lambda scores: ndcg([grades[i] for i in np.argsort(-scores, kind="stable")], known, 10)

    found = {}
    for place, each in enumerate(measured_on):
        of_query = judged.get(each.qid, {}) if judged is not None else None
        own = [of_query.get(docid) for docid in each.ids] if of_query is not None else list(each.grades)
        grades = [grade or 0.0 for grade in own]
        known = list(of_query.values()) if of_query is not None else grades
        if any(grade > 0 for grade in known):
            found[place] = measure(grades, known)
    return found
