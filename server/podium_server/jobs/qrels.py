"""Judgments: which documents of a query people looked at, and what they said. One reader for everybody."""

from __future__ import annotations

from math import isfinite
from pathlib import Path

from podium_server.errors import InvalidRequest
from podium_server.jobs.json_lines import numbered, where


def read_qrels(path: str | Path) -> dict[str, dict[str, float]]:
    """Read judgments as TREC writes them, `qid iteration docid grade`, or BEIR, `qid docid grade` below a heading.

    A grade below 0 (spam, in some of TREC's) stays what it is: the document counts as judged, and its gain as 0, as
    trec_eval has it (`jobs.ndcg.dcg`).

    Args:
        path: plain or gzipped.

    Returns:
        query → document → grade. No query is without a judgment.

    Raises:
        OSError: the file cannot be opened.
        InvalidRequest: a line is no judgment, or contradicts one before it, or there is none; with the file and line.

    """
    judged: dict[str, dict[str, float]] = {}
    for number, line in numbered(path):
        try:
            words = line.decode("utf-8").split()
        except UnicodeDecodeError as error:
            raise InvalidRequest(where(path, number), f"is no UTF-8 at byte {error.start}") from error
        if number == 1 and words[-1:] == ["score"]:
            continue
        if len(words) not in (3, 4):
            raise InvalidRequest(
                where(path, number), f"{len(words)} columns; qid iteration docid grade are 4, or 3 as BEIR has them"
            )
        qid, docid, grade = words[0], words[-2], _grade(words[-1])
        if grade is None:
            raise InvalidRequest(where(path, number), f"the grade is {words[-1]!r}, which is no number")
        if judged.setdefault(qid, {}).setdefault(docid, grade) != grade:
            raise InvalidRequest(
                where(path, number),
                f"query {qid} has document {docid} twice, with the grades {judged[qid][docid]:g} and {grade:g}",
            )
    if not judged:
        raise InvalidRequest(str(path), "has no judgments")
    return judged


def _grade(word: str) -> float | None:
    try:
        grade = float(word)
    except ValueError:
        return None
    return grade if isfinite(grade) else None
