"""What an evaluation found out: every system's order of every query, what it took, and the figures made of them.

Data only. `results_file.write` puts a `Results` into `results.json`, `results_file.read` gets the same value back; a
report is drawn from that and from nothing else, so that it can be drawn again, later and elsewhere. The JSON has the
names of the fields below, nested as they are, with these exceptions (all made so that texts stand in the file once):

    {"format": "podium-evaluation/1",
     "made": {"at": "2026-11-21T09:10:11Z", "command": "podium eval run …", "podium": "0.1.0", "seed": "0", …},
     "main": "nDCG@10",
     "evaluations": [                                            one a suite
       {"suite": {"name", "warnings": [sentence],
                  "texts": [text],
                  "topics": [{"qid", "query", "candidates": [[docid, place in texts, first-stage score or null]]}],
                  "corpus": {docid: place in texts},             of a corpus, what stands in some system's first 20
                  "qrels": {qid: {docid: grade}}},
        "baseline": "first-stage",
        "qids": [the judged queries; every system's values are in this order],
        "references": [{"name", "measure", "value", "source"}],  published figures on the same lists
        "systems": [
          {"name", "kind", "description", "stages": [line], "warnings": [sentence],
           "rankings": [{"qid", "docids", "scores", "completion", "spent": {…}, "unchanged", "error"}],
           "values": {measure: [one a judged query]},
           "summary": {…},                                       see `Summary`
           "differences": {measure: {…}}}]}],                    see `Difference`; {} for the baseline itself
     "sections": {"simulated": {…}, "peers": {…}, "published": […]},  as their makers define them
     "missing": [{"what", "why"}],                               what was asked for and is not here
     "timings": [{"what", "seconds"}]}

Numbers are finite or null. An unknown price, and a time that means nothing (a recording's, a run file's), are null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podium_evals.suite import Suite

FIRST_STAGE = "first-stage"
"""The system that leaves every list as it came; the baseline of all others where no other is named."""

PIPELINE, RECORDED, RUN_FILE = "pipeline", "recorded", "run"
"""Kinds of systems: run here, so that all figures are its own; run here over a recorded model, so that times mean
nothing; read from a run file, so that only the order is known."""

COMPLETE, FAILED, UNANSWERED = "complete", "failed", "unanswered"

SHOWN = 20
"""Places of every order that a query's page shows."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What one query took. Times are seconds; an unknown price is None, never 0."""

    calls: int = 0
    rounds: int = 0
    questions: int = 0
    pairs: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    retries: int = 0
    cache_hits: int = 0
    truncated_documents: int = 0
    replies: int = 0
    """Of chat models, that were read; of these, `malformed_replies` lacked something, `unreadable_replies` all."""
    malformed_replies: int = 0
    unreadable_replies: int = 0
    cost_usd: float | None = 0.0
    wall_s: float = 0.0
    critical_path_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Ranking:
    """A system's answer to one query.

    Args:
        qid: of the query.
        docids: all candidates, best first; empty where it failed.
        scores: by rank; None where a candidate has none.
        completion: `complete`, `partial_…`, `failed`, or `unanswered` (a run file without the query).
        spent: what it took.
        unchanged: the order is the first stage's.
        error: why it failed, as a sentence; empty where it did not.

    """

    qid: str
    docids: tuple[str, ...]
    scores: tuple[float | None, ...] = ()
    completion: str = COMPLETE
    spent: Spent = field(default_factory=Spent)
    unchanged: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over the judged queries, with the ends of its 95 % interval (bootstrap)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """System minus baseline, query by query.

    Args:
        mean: of the differences.
        low: lower end of the 95 % interval of the mean (bootstrap, percentiles).
        high: its upper end.
        p: two-sided, of the sign-flip test; before correction.
        wins: queries on which the system is better.
        losses: on which it is worse.
        ties: on which they are equal.
        p_holm: corrected for all systems that are compared with the same baseline on the suite; None while it is not.

    """

    mean: float
    low: float
    high: float
    p: float
    wins: int
    losses: int
    ties: int
    p_holm: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """One system over one suite in figures. What it took and percentiles are over all queries that it was asked.

    Args:
        means: by measure, over the judged queries.
        queries: that it was asked.
        judged: of which so many are in the means.
        failed: queries without an answer, which count as 0 in the means.
        partial: queries that a budget or a deadline ended.
        unchanged: share of answered queries whose order is the first stage's, from 0 to 1.
        malformed: share of replies that had to be repaired; None where no replies were asked for.
        unreadable: share of replies of which nothing could be read; None likewise.
        calls: a query; None where it is not known what the system took, as all below.
        rounds: a query: the length of the longest chain.
        questions: a query.
        pairs: a query, of cross-encoders.
        prompt_tokens: a query.
        cached_tokens: a query, of the prompt's.
        output_tokens: a query.
        retries: of all queries.
        cost_usd: a query; None where a price is unknown.
        latency_p50_s: median of the wall time; None where times mean nothing, as all below.
        latency_p95_s: 95th percentile of the wall time.
        critical_path_p50_s: median of the longest chain of answers, in the seconds of the models that gave them.
        critical_path_p95_s: its 95th percentile.

    """

    means: Mapping[str, Mean]
    queries: int
    judged: int
    failed: int = 0
    partial: int = 0
    unchanged: float = 0.0
    malformed: float | None = None
    unreadable: float | None = None
    calls: float | None = None
    rounds: float | None = None
    questions: float | None = None
    pairs: float | None = None
    prompt_tokens: float | None = None
    cached_tokens: float | None = None
    output_tokens: float | None = None
    retries: int | None = None
    cost_usd: float | None = None
    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    critical_path_p50_s: float | None = None
    critical_path_p95_s: float | None = None


@dataclass(frozen=True, slots=True)
class System:
    """A pipeline over one suite.

    Args:
        name: of the pipeline.
        description: what it is, in a sentence.
        stages: each stage in a line (strategy, model, prompt).
        rankings: one a query, in the suite's order.
        warnings: sentences, each with a count.
        kind: `pipeline`, `recorded` or `run`.

    """

    name: str
    description: str
    stages: tuple[str, ...]
    rankings: tuple[Ranking, ...]
    warnings: tuple[str, ...] = ()
    kind: str = PIPELINE

    def __post_init__(self) -> None:
        if self.kind not in (PIPELINE, RECORDED, RUN_FILE):
            raise ValueError(f"{self.name}: a system's kind is {PIPELINE}, {RECORDED} or {RUN_FILE}, not {self.kind!r}")

    @property
    def run(self) -> dict[str, tuple[str, ...]]:
        """Return qid → docids, best first, of the queries that it answered."""
        return {ranking.qid: ranking.docids for ranking in self.rankings if ranking.docids}


@dataclass(frozen=True, slots=True)
class Reference:
    """A published figure on the same lists. It is shown, not tested against: its values by query are not known."""

    name: str
    measure: str
    value: float
    source: str = ""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Several systems over one suite.

    Args:
        suite: with its texts and judgments.
        systems: the baseline among them.
        qids: of the judged queries, in the suite's order.
        values: by system, by measure: (queries,) float64 in the order of `qids`.
        summaries: by system.
        differences: by system, by measure, from the baseline; the baseline itself is not in it.
        baseline: the name of the system that the others are compared with.
        references: published figures.

    """

    suite: Suite
    systems: tuple[System, ...]
    qids: tuple[str, ...]
    values: Mapping[str, Mapping[str, NDArray[np.float64]]]
    summaries: Mapping[str, Summary]
    differences: Mapping[str, Mapping[str, Difference]]
    baseline: str = FIRST_STAGE
    references: tuple[Reference, ...] = ()

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures' names, in their order."""
        return tuple(next(iter(self.values.values()), {}))

    def system(self, name: str) -> System:
        """Return a system by name.

        Raises:
            KeyError: there is none.

        """
        return {system.name: system for system in self.systems}[name]


@dataclass(frozen=True, slots=True)
class Missing:
    """What was asked for and is not in the results, and why, as a sentence."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a part took."""

    what: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Results:
    """All that one command found out.

    Args:
        evaluations: one a suite.
        main: the measure that tables and pictures begin with.
        made: when, where and by which command, by name.
        sections: further tables by name (`simulated`, `peers`), as their makers define them.
        missing: what was asked for and is not here.
        timings: of the parts.

    """

    evaluations: tuple[Evaluation, ...]
    main: str = "nDCG@10"
    made: Mapping[str, str] = field(default_factory=dict)
    sections: Mapping[str, Any] = field(default_factory=dict)
    missing: Sequence[Missing] = ()
    timings: Sequence[Timing] = ()


def first_stage(suite: Suite) -> System:
    """Return the baseline: every list as it came."""
    rankings = tuple(
        Ranking(
            topic.qid,
            tuple(passage.docid for passage in topic.candidates),
            tuple(passage.score for passage in topic.candidates),
            unchanged=True,
        )
        for topic in suite.topics
    )
    return System(FIRST_STAGE, "The order in which the candidates came.", (), rankings)
