"""Run files as systems: orders that somebody else made, over a suite or over judgments alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from podium_evals.results import RUN_FILE, UNANSWERED, Ranking, System
from podium_evals.suite import Suite, SuiteError, Topic, checked, listed, read_qrels, read_run


def judgments_alone(qrels: Path) -> Suite:
    """Return a suite that has judgments and nothing else: no texts, no candidates."""
    graded = read_qrels(qrels)
    topics = tuple(Topic(qid, "", ()) for qid in graded)
    suite = Suite(qrels.name.split(".")[0], topics, MappingProxyType(graded))
    # That there are no candidates is no remark here: there is nothing else to be had of judgments.
    without = [warning for warning in checked(suite).warnings if "without candidates" not in warning]
    return replace(suite, warnings=tuple(without))


def run_system(path: Path, suite: Suite, name: str | None = None) -> System:
    """Read a TREC run as a system over a suite.

    Args:
        path: of the run.
        suite: whose queries it answers.
        name: unset, that of the file.

    Raises:
        SuiteError: the run is broken, over other queries, or ranks nothing that is judged.

    """
    run = read_run(path)
    first_stage = {topic.qid: tuple(passage.docid for passage in topic.candidates) for topic in suite.topics}
    others = [qid for qid in run if qid not in first_stage]
    if len(others) == len(run):
        raise SuiteError(
            f"{path}: is a run over other queries: it has {listed(others, 'query', 'queries')}, and {suite.name} has "
            f"{listed(tuple(first_stage), 'query', 'queries')}"
        )
    if not any(docid in suite.qrels.get(qid, {}) for qid, ranked in run.items() for docid, _ in ranked):
        raise SuiteError(f"{path}: is unjudged: not one of the documents that it ranks has a judgment in {suite.name}")
    unanswered = [qid for qid in first_stage if qid not in run]
    warnings = []
    if others:
        warnings.append(f"ignored: {listed(others, 'query', 'queries')} not in the suite")
    if unanswered:
        warnings.append(f"not in the run: {listed(unanswered, 'query', 'queries')}")
    rankings = []
    for qid, given in first_stage.items():
        if qid not in run:
            rankings.append(Ranking(qid, (), completion=UNANSWERED))
            continue
        docids = tuple(docid for docid, _ in run[qid])
        scores = tuple(score for _, score in run[qid])
        rankings.append(Ranking(qid, docids, scores, unchanged=docids == given))
    return System(name or _stem(path), f"The run {path.name}.", (), tuple(rankings), tuple(warnings), RUN_FILE)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".trec").removesuffix(".run").removesuffix(".txt")
