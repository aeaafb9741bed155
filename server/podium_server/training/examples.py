"""What a student learns from and is measured on: queries with documents, read from JSONL of several kinds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, cast

from podium_server.errors import ConfigInvalid, InvalidRequest
from podium_server.jobs.json_lines import numbered, where

ROWS_MAX = 2_000_000
"""Examples are held in memory; a list of 20 passages takes 20 KB or so."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document of a list, with what is known of it.

    Args:
        text: of it.
        rank: the teacher's, from 1; None where it was not ranked.
        human: a person's judgment, beside the teacher's rank.
        label: the list's own label.
        score: a teacher's soft score.
        docid: for judgments that lie in another file.

    """

    text: str
    rank: int | None = None
    human: float | None = None
    label: float | None = None
    score: float | None = None
    docid: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """A query with its documents, the best first where a teacher ranked them, else as the file has them.

    Args:
        query: its text.
        documents: ranked or labelled.
        others: texts that the teacher did not rank and nobody judged relevant.
        source: as the row says.
        qid: for judgments that lie in another file.

    """

    query: str
    documents: tuple[Document, ...]
    others: tuple[str, ...] = ()
    source: str = ""
    qid: str = ""


@dataclass(slots=True)
class Reading:
    """What was read of a file, and what was left out, by reason."""

    examples: list[Example] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    first_bad: str = ""

    def leave_out(self, reason: str, where: str) -> None:
        """Count a row that is not used."""
        self.left_out[reason] += 1
        self.first_bad = self.first_bad or f"{where}: {reason}"


class _Mistake(Exception):
    """What is wrong with a row, as a few words: it is what rows are counted by."""


def read(
    paths: Iterable[Path], kind: str = "auto", *, sources: Sequence[str] = (), min_agreement: float = -1.0
) -> Reading:
    """Read files of one kind.

    Args:
        paths: of JSONL, plain or gzipped.
        kind: `pairs`, `lists`, `teacher`, `labels`; `auto` goes by the keys of each row.
        sources: only rows whose `source` begins with one of them; empty, all.
        min_agreement: leave out lists on which the teacher agrees less with itself, and those of which nobody knows;
            -1 takes all.

    Raises:
        ConfigInvalid: a file cannot be read, or holds too many rows.

    """
    reading = Reading()
    for path in paths:
        for number, raw in _lines(path):
            try:
                row = _parsed(raw)
                if sources and not str(row.get("source", "")).startswith(tuple(sources)):
                    continue
                _check_agreement(row, min_agreement)
                reading.examples.append(READERS[_kind(row) if kind == "auto" else kind](row))
            except _Mistake as mistake:
                reading.leave_out(str(mistake), where(path, number))
            if len(reading.examples) > ROWS_MAX:
                raise ConfigInvalid(f"{path}: more than {ROWS_MAX:,} rows; split the data, or set sources")
    return reading


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        yield from numbered(path)
    except OSError as error:
        raise ConfigInvalid(f"{path}: cannot be read: {error}") from error
    except InvalidRequest as error:
        raise ConfigInvalid(error.message) from error


def objects(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines, all of which are needed.

    Raises:
        ConfigInvalid: the file cannot be read, or a line is no object.

    """
    for number, raw in _lines(path):
        try:
            yield _parsed(raw)
        except _Mistake as mistake:
            raise ConfigInvalid(f"{where(path, number)}: {mistake}") from mistake


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError):
        raise _Mistake("no JSON") from None
    if not isinstance(row, dict):
        raise _Mistake("no JSON object")
    return row


def _kind(row: dict[str, Any]) -> str:
    if "positive" in row:
        return "pairs"
    if "ranked" in row:
        return "teacher"
    if "ranking" in row or "error" in row:
        return "labels"
    if "candidates" in row:
        return "lists"
    raise _Mistake("neither positive, ranked, ranking nor candidates")


def _pair(row: dict[str, Any]) -> Example:
    positive = _text(row, "positive")
    return Example(_text(row, "query"), (Document(positive, label=1.0),), source=str(row.get("source", "")))


def _teacher_list(row: dict[str, Any]) -> Example:
    ranked = [_document(each) for each in _list(row, "ranked")]
    if any(each.rank is None for each in ranked):
        raise _Mistake("a ranked document without teacher_rank")
    unranked = _list(row, "unranked") if row.get("unranked") is not None else []
    others = tuple(_text(each, "text") for each in unranked if isinstance(each, dict) and not each.get("human"))
    return _example(row, ranked, others)


def _graded_list(row: dict[str, Any]) -> Example:
    return _example(row, [_document(each) for each in _list(row, "candidates")])


def _labelled_list(row: dict[str, Any]) -> Example:
    """Read what `podium label` wrote (`labels.format`): candidates, their ranking, scores by rank."""
    if row.get("error") is not None:
        raise _Mistake("a list that the teacher could not label")
    documents = {document.docid: document for document in map(_document, _list(row, "candidates"))}
    scores = _list(row, "scores") if row.get("scores") is not None else []
    ranked = []
    for rank, docid in enumerate(_list(row, "ranking"), 1):
        own = documents.pop(str(docid), None)
        if own is None:
            raise _Mistake("the ranking names a document twice, or one that is not among the candidates")
        score = scores[rank - 1] if rank <= len(scores) else None
        ranked.append(replace(own, rank=rank, score=None if score is None else _number(score, "score")))
    return _example(row, ranked)


def _check_agreement(row: dict[str, Any], least: float) -> None:
    """Refuse a list on which the teacher agrees less with itself (Kendall's tau, -1 to 1), or nobody knows how far."""
    said = row.get("agreement")
    tau = said.get("kendall_tau") if isinstance(said, dict) else said
    if tau is None and least > -1:
        raise _Mistake("no agreement (podium label --shuffles), and min_agreement is set")
    if tau is not None and _number(tau, "agreement") < least:
        raise _Mistake(f"agreement below {least}")


READERS: dict[str, Callable[[dict[str, Any]], Example]] = {
    "pairs": _pair,
    "lists": _graded_list,
    "teacher": _teacher_list,
    "labels": _labelled_list,
}


def _example(row: dict[str, Any], documents: list[Document], others: tuple[str, ...] = ()) -> Example:
    if len(documents) < 2:
        raise _Mistake("fewer than two documents")
    if all(document.rank is not None for document in documents):
        documents = sorted(documents, key=lambda document: cast(int, document.rank))
    return Example(_text(row, "query"), tuple(documents), others, str(row.get("source", "")), str(row.get("qid", "")))


def _document(given: Any) -> Document:
    if not isinstance(given, dict):
        raise _Mistake("a document is no object")
    rank = given.get("teacher_rank")
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        raise _Mistake("teacher_rank is no number from 1 on")
    label = given.get("label", given.get("rel"))
    return Document(
        _text(given, "text"),
        rank=rank,
        human=None if given.get("human") is None else _number(given["human"], "human"),
        label=None if label is None else _number(label, "label"),
        score=None if given.get("teacher_score") is None else _number(given["teacher_score"], "teacher_score"),
        docid=str(given.get("docid", "")),
    )


def _list(row: dict[str, Any], key: str) -> list[Any]:
    value = row.get(key)
    if not isinstance(value, list):
        raise _Mistake(f"{key} is no list")
    return value


def _text(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise _Mistake(f"{key} is no text")
    # Surrogates that stand alone cannot be tokenized.
    return value if value.isascii() else value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Mistake(f"{key} is no number")
    try:
        number = float(value)
    except OverflowError:
        number = float("inf")
    if not isfinite(number):
        raise _Mistake(f"{key} is no finite number")
    return number


def folded(query: str) -> str:
    """Return a query as it is compared with others: letters and digits, in lower case."""
    return " ".join("".join(c if c.isalnum() else " " for c in query.casefold()).split())
