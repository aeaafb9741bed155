"""Lists with labels, for those who measure: each candidate's `rel`, or the judgments of a file beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from podium_server.errors import InvalidRequest
from podium_server.jobs.calibrate import Labels
from podium_server.jobs.lists import BadLine, CandidateList, parse_line, unpacked

LABEL = "rel"


@dataclass(frozen=True, slots=True)
class LabelledList:
    """A list, and what is known of its documents."""

    list: CandidateList
    labels: Labels


def read_lists(
    path: Path, qrels: Mapping[str, Mapping[str, float]], limit: int | None = None
) -> Iterator[LabelledList]:
    """Yield the lists of a file of JSON lines, plain or gzipped.

    Args:
        path: of lines {"qid", "query", "candidates": [{"docid", "text", "score"?, "rel"?}]}.
        qrels: judgments by query and document; where a query has some, they count instead of `rel`.
        limit: lists at most.

    Raises:
        InvalidRequest: a line is no list, or has no labels; with its number.

    """
    with path.open("rb") as raw:
        read = 0
        for number, line in enumerate(unpacked(raw), 1):
            if limit is not None and read >= limit:
                return
            if line.strip():
                yield _labelled(line, number, qrels)
                read += 1


def _labelled(line: bytes, number: int, qrels: Mapping[str, Mapping[str, float]]) -> LabelledList:
    parsed = parse_line(line, number)
    if isinstance(parsed, BadLine):
        raise InvalidRequest(f"line {number}", parsed.message)
    judged = qrels.get(str(parsed.qid))
    if judged is not None:
        given = tuple(judged.get(str(docid), 0.0) for docid in parsed.docids)
        return LabelledList(parsed, Labels(str(parsed.qid), given, tuple(judged.values())))
    found = [candidate.get(LABEL) for candidate in json.loads(line)["candidates"]]
    if found and all(label is None for label in found):
        raise InvalidRequest(f"line {number}", f"no candidate has a label ({LABEL!r}), and no --qrels has the query")
    wrong = next((label for label in found if not isinstance(label, int | float | None)), None)
    if wrong is not None:
        raise InvalidRequest(f"line {number}", f"{LABEL} is {wrong!r}; a number is needed")
    labels = tuple(float(label or 0) for label in found)
    return LabelledList(parsed, Labels(str(parsed.qid), labels, labels))


def read_qrels(path: Path) -> dict[str, dict[str, float]]:
    """Read judgments as TREC writes them: `qid 0 docid label` a line.

    Raises:
        InvalidRequest: a line is no judgment; with its number.

    """
    judged: dict[str, dict[str, float]] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        parts = line.split()
        try:
            if parts:
                qid, _, docid, label = parts
                judged.setdefault(qid, {})[docid] = float(label)
        except ValueError:
            raise InvalidRequest(f"line {number} of {path}", "is no judgment: `qid 0 docid label` is needed") from None
    return judged
