"""`results.json` and TREC runs: written whole or not at all, read back to the same values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from podium_evals.results import (
    SHOWN,
    Difference,
    Evaluation,
    Mean,
    Missing,
    Ranking,
    Reference,
    Results,
    Spent,
    Summary,
    System,
    Timing,
)
from podium_evals.suite import Passage, Suite, Topic

FORMAT = "podium-evaluation/1"


class ResultsError(ValueError):
    """A file that holds no results of this format."""


def write(results: Results, path: Path) -> None:
    """Write results as JSON; the file takes its name when it is whole."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(as_data(results), ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)


def read(path: Path) -> Results:
    """Read what `write` wrote.

    Raises:
        ResultsError: the file is of another kind or version, or broken.

    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path}: is not JSON: {error}") from None
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT:
        raise ResultsError(f"{path}: its format is {found!r}; {FORMAT!r} is read here")
    try:
        return from_data(data)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ResultsError(f"{path}: is broken: {error!r}") from error


def as_data(results: Results) -> dict[str, Any]:
    """Return results as JSON has them; `from_data` is its inverse."""
    return {
        "format": FORMAT,
        "made": dict(results.made),
        "main": results.main,
        "evaluations": [_evaluation_data(evaluation) for evaluation in results.evaluations],
        "sections": dict(results.sections),
        "missing": [asdict(missing) for missing in results.missing],
        "timings": [asdict(timing) for timing in results.timings],
    }


def from_data(data: Mapping[str, Any]) -> Results:
    """Return the results that `as_data` was given."""
    return Results(
        evaluations=tuple(_evaluation(evaluation) for evaluation in data["evaluations"]),
        main=data["main"],
        made=data["made"],
        sections=data["sections"],
        missing=tuple(Missing(**missing) for missing in data["missing"]),
        timings=tuple(Timing(**timing) for timing in data["timings"]),
    )


def _evaluation_data(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "suite": _suite_data(evaluation.suite, evaluation.systems),
        "baseline": evaluation.baseline,
        "qids": list(evaluation.qids),
        "references": [asdict(reference) for reference in evaluation.references],
        "systems": [_system_data(evaluation, system) for system in evaluation.systems],
    }


def _evaluation(data: Mapping[str, Any]) -> Evaluation:
    systems = data["systems"]
    return Evaluation(
        suite=_suite(data["suite"]),
        systems=tuple(_system(row) for row in systems),
        qids=tuple(data["qids"]),
        values={
            row["name"]: {name: np.array(values, np.float64) for name, values in row["values"].items()}
            for row in systems
        },
        summaries={row["name"]: _summary(row["summary"]) for row in systems},
        differences={
            row["name"]: {name: Difference(**value) for name, value in row["differences"].items()}
            for row in systems
            if row["name"] != data["baseline"]
        },
        baseline=data["baseline"],
        references=tuple(Reference(**reference) for reference in data["references"]),
    )


def _system_data(evaluation: Evaluation, system: System) -> dict[str, Any]:
    values = evaluation.values[system.name]
    differences = evaluation.differences.get(system.name, {})
    return {
        "name": system.name,
        "kind": system.kind,
        "description": system.description,
        "stages": list(system.stages),
        "warnings": list(system.warnings),
        "rankings": [_ranking_data(ranking) for ranking in system.rankings],
        "values": {name: [float(value) for value in row] for name, row in values.items()},
        "summary": asdict(evaluation.summaries[system.name]),
        "differences": {name: asdict(difference) for name, difference in differences.items()},
    }


def _ranking_data(ranking: Ranking) -> dict[str, Any]:
    # A model may answer with a number that JSON does not have; such a score is no score.
    scores = [None if score is None or not math.isfinite(score) else score for score in ranking.scores]
    return {**asdict(ranking), "docids": list(ranking.docids), "scores": scores}


def _system(data: Mapping[str, Any]) -> System:
    return System(
        name=data["name"],
        description=data["description"],
        stages=tuple(data["stages"]),
        rankings=tuple(_ranking(row) for row in data["rankings"]),
        warnings=tuple(data["warnings"]),
        kind=data["kind"],
    )


def _ranking(row: Mapping[str, Any]) -> Ranking:
    sequences = {key: tuple(row[key]) for key in ("docids", "scores")}
    return Ranking(**{**row, **sequences, "spent": Spent(**row["spent"])})


def _summary(data: Mapping[str, Any]) -> Summary:
    return Summary(**{**data, "means": {name: Mean(**mean) for name, mean in data["means"].items()}})


def _suite_data(suite: Suite, systems: Sequence[System]) -> dict[str, Any]:
    texts: dict[str, int] = {}
    topics = [
        {
            "qid": topic.qid,
            "query": topic.query,
            "candidates": [
                [passage.docid, texts.setdefault(passage.text, len(texts)), passage.score]
                for passage in topic.candidates
            ],
        }
        for topic in suite.topics
    ]
    qrels = {qid: dict(graded) for qid, graded in suite.qrels.items()}
    # Of a corpus, what somebody shows; all of it may be millions.
    shown = {docid for system in systems for ranking in system.rankings for docid in ranking.docids[:SHOWN]}
    corpus = {
        docid: texts.setdefault(suite.corpus[docid], len(texts)) for docid in sorted(shown) if docid in suite.corpus
    }
    return {
        "name": suite.name,
        "warnings": list(suite.warnings),
        "texts": list(texts),
        "topics": topics,
        "corpus": corpus,
        "qrels": qrels,
    }


def _suite(data: Mapping[str, Any]) -> Suite:
    texts = data["texts"]
    topics = tuple(
        Topic(
            row["qid"],
            row["query"],
            tuple(Passage(docid, texts[place], score) for docid, place, score in row["candidates"]),
        )
        for row in data["topics"]
    )
    corpus = MappingProxyType({docid: texts[place] for docid, place in data.get("corpus", {}).items()})
    return Suite(data["name"], topics, MappingProxyType(data["qrels"]), corpus, tuple(data["warnings"]))


def write_run(system: System, path: Path) -> None:
    """Write a TREC run; scores fall by 1 a rank, so that trec_eval keeps the order.

    Raises:
        ResultsError: an id has a space in it, which a TREC run cannot hold.

    """
    tag = "-".join(system.name.split()) or "podium"
    lines = []
    for ranking in system.rankings:
        for rank, docid in enumerate(ranking.docids, start=1):
            if len(f"{ranking.qid} {docid}".split()) != 2:
                raise ResultsError(
                    f"query {ranking.qid!r}, document {docid!r}: an id with a space, or without a letter, cannot stand "
                    "in a TREC run"
                )
            lines.append(f"{ranking.qid} Q0 {docid} {rank} {len(ranking.docids) - rank + 1} {tag}\n")
    path.write_text("".join(lines), encoding="utf-8")
