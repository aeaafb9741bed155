"""Measures by ir_measures, per query and over the same queries for every system.

A run is strictly ordered before it is measured (rank → score, falling by 1), so that no measure sees a tie that a
system did not mean; where a run comes from elsewhere, its ties are broken as trec_eval does (`suite.read_run`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ir_measures
import numpy as np
from ir_measures import AP, RR, Judged, P, R, Success, nDCG
from numpy.typing import NDArray

from podium_evals.suite import Qrels

# The first is the main one; a terminal has room for eight more.
MEASURES = (
    nDCG @ 10, nDCG @ 5, nDCG @ 20, AP, RR @ 10, P @ 10, R @ 100, Success @ 1, Judged @ 10, nDCG @ 1, R @ 10,
)  # fmt: skip
MAIN = nDCG @ 10


@dataclass(frozen=True, slots=True)
class Measured:
    """One system over the judged queries of a suite.

    Args:
        qids: of the judged queries, the same and in the same order for every system of a suite.
        values: by measure's name, (queries,) float64. A query that the system did not answer counts as 0.
        missing: judged queries that it did not answer.

    """

    qids: tuple[str, ...]
    values: Mapping[str, NDArray[np.float64]]
    missing: tuple[str, ...] = ()

    def mean(self, measure: str = str(MAIN)) -> float:
        """Return the mean over all judged queries."""
        return float(self.values[measure].mean())


def measure(
    run: Mapping[str, Sequence[str]], qrels: Qrels, measures: Sequence[ir_measures.Measure] = MEASURES
) -> Measured:
    """Measure a run.

    Args:
        run: qid → docids, best first.
        qrels: qid → docid → grade. Queries without a relevant document are left out.
        measures: what to compute.

    Raises:
        ValueError: no query has a relevant document, or the run answers none of those that have.

    """
    qids = tuple(qid for qid, graded in qrels.items() if any(grade > 0 for grade in graded.values()))
    if not qids:
        raise ValueError("no query has a relevant document")
    place = {qid: index for index, qid in enumerate(qids)}
    if run and not place.keys() & run.keys():
        raise ValueError(f"the run answers none of the {len(qids)} judged queries")
    scored = {qid: {docid: float(len(order) - rank) for rank, docid in enumerate(order)} for qid, order in run.items()}
    values = {str(wanted): np.zeros(len(qids)) for wanted in measures}
    judged = {qid: dict(qrels[qid]) for qid in qids}
    answered = {qid: scores for qid, scores in scored.items() if qid in place and scores}
    for result in ir_measures.iter_calc(list(measures), judged, answered):
        values[str(result.measure)][place[result.query_id]] = result.value
    return Measured(qids, values, tuple(qid for qid in qids if qid not in answered))
