"""Lists with labels, for those who measure: each candidate's `rel`, or the judgments of a file beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from pathlib import Path

from podium_server.errors import InvalidRequest
from podium_server.jobs.calibrate import Labels
from podium_server.jobs.json_lines import numbered, where
from podium_server.jobs.lists import BadLine, CandidateList, parse_line

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
        OSError: the file cannot be opened.
        InvalidRequest: a line is no list, or has no labels, or the file breaks off; with the file and the line.

    """
    for number, line in islice(numbered(path), limit):
        parsed = parse_line(line, number)
        if isinstance(parsed, BadLine):
            raise InvalidRequest(where(path, number), parsed.message)
        yield LabelledList(parsed, _labels(parsed, line, qrels.get(str(parsed.qid)), where(path, number)))


def _labels(given: CandidateList, line: bytes, judged: Mapping[str, float] | None, at: str) -> Labels:
    qid = str(given.qid)
    if judged is not None:
        return Labels(qid, tuple(judged.get(name, 0.0) for name in given.ids), tuple(judged.values()))
    found = [candidate.get(LABEL) for candidate in json.loads(line)["candidates"]]
    if found and all(label is None for label in found):
        raise InvalidRequest(at, f"no candidate has a label ({LABEL!r}), and no --qrels has the query")
    for label in found:
        if label is not None and (not isinstance(label, int | float) or not isfinite(label)):
            raise InvalidRequest(at, f"{LABEL} is {label!r}; a number is needed")
    labels = tuple(float(label or 0) for label in found)
    return Labels(qid, labels, labels)
