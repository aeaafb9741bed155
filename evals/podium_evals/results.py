"""What an evaluation found out: every system's order of every query, and what it took. Data only; JSON and back.

A report is drawn from this and from nothing else, so that it can be drawn again, later and elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from podium_evals.suite import Suite

FIRST_STAGE = "first-stage"
"""The system that leaves every list as it came; the baseline of all others."""

FORMAT = "podium-evaluation/1"


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
        completion: `complete`, `partial_…`, or `failed`.
        spent: what it took.
        unchanged: the order is the first stage's.
        error: why it failed, as a sentence; empty where it did not.

    """

    qid: str
    docids: tuple[str, ...]
    scores: tuple[float | None, ...] = ()
    completion: str = "complete"
    spent: Spent = field(default_factory=Spent)
    unchanged: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class System:
    """A pipeline over one suite.

    Args:
        name: of the pipeline.
        description: what it is, in a sentence.
        stages: each stage in a line (strategy, model, prompt).
        rankings: one a query, in the suite's order.
        warnings: sentences.

    """

    name: str
    description: str
    stages: tuple[str, ...]
    rankings: tuple[Ranking, ...]
    warnings: tuple[str, ...] = ()

    @property
    def run(self) -> dict[str, tuple[str, ...]]:
        """Return qid → docids, best first."""
        return {ranking.qid: ranking.docids for ranking in self.rankings if ranking.docids}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Several systems over one suite.

    Args:
        suite: with its texts and judgments.
        systems: the first stage among them, first.
        made: when, where and by which command, by name.

    """

    suite: Suite
    systems: tuple[System, ...]
    made: Mapping[str, str] = field(default_factory=dict)


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


def write_run(system: System, path: Path) -> None:
    """Write a TREC run; scores fall by 1 a rank, so that trec_eval keeps the order."""
    with path.open("w", encoding="utf-8") as file:
        for ranking in system.rankings:
            for rank, docid in enumerate(ranking.docids, start=1):
                file.write(f"{ranking.qid} Q0 {docid} {rank} {len(ranking.docids) - rank + 1} {system.name}\n")


def write_system(system: System, path: Path) -> None:
    """Write a system's rankings as JSON lines, the system itself in the first."""
    heading: dict[str, Any] = {"format": FORMAT, "name": system.name, "description": system.description}
    heading |= {"stages": list(system.stages), "warnings": list(system.warnings)}
    lines: list[Mapping[str, Any]] = [heading, *(asdict(ranking) for ranking in system.rankings)]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def read_system(path: Path) -> System:
    """Read what `write_system` wrote.

    Raises:
        ValueError: the file is of another kind.

    """
    heading, *rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    if heading.get("format") != FORMAT:
        raise ValueError(f"{path}: its first line is no heading of {FORMAT}")
    return System(
        heading["name"],
        heading["description"],
        tuple(heading["stages"]),
        tuple(_ranking(row) for row in rows),
        tuple(heading["warnings"]),
    )


def _ranking(row: Mapping[str, Any]) -> Ranking:
    sequences: Mapping[str, Sequence[Any]] = {key: tuple(row[key]) for key in ("docids", "scores")}
    return Ranking(**{**row, **sequences, "spent": Spent(**row["spent"])})
