"""What the page of a query shows: the lists side by side. Texts are stored once a suite, and cut to a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from podium_evals.report.figures import DIGITS, finite, first_orders
from podium_evals.report.markup import clean
from podium_evals.report.mistakes import classify
from podium_evals.results import COMPLETE, SHOWN, UNANSWERED, Evaluation, Ranking
from podium_evals.suite import Passage

TEXT_BYTES_MAX = 4_000_000
"""Of passages in one report. Above it every passage is cut shorter, evenly, and the report says so."""

LENGTHS = (600, 420, 300, 220, 160, 120, 80, 40, 0)
"""To how many characters passages may be cut; the first that fits is taken."""


@dataclass(slots=True)
class Shelf:
    """The passages of one suite that the report shows, each once."""

    passages: list[Passage] = field(default_factory=list)
    _places: dict[tuple[str, str], int] = field(default_factory=dict)

    def place(self, passage: Passage) -> int:
        """Return where a passage stands; the first asker puts it there."""
        key = (passage.docid, passage.text)
        if key not in self._places:
            self._places[key] = len(self.passages)
            self.passages.append(passage)
        return self._places[key]


def details(evaluations: Sequence[Evaluation], *, bytes_max: int = TEXT_BYTES_MAX) -> tuple[list[dict[str, Any]], int]:
    """Return what the pages of all queries need, one entry a suite, and to how many characters passages were cut."""
    shelves = [Shelf() for _ in evaluations]
    queries = [_queries(evaluation, shelf) for evaluation, shelf in zip(evaluations, shelves, strict=True)]
    texts = [clean(passage.text) for shelf in shelves for passage in shelf.passages]
    characters = next(
        length for length in LENGTHS if length == 0 or sum(len(text[:length].encode()) for text in texts) <= bytes_max
    )
    blocks = [
        {"docs": [[passage.docid, cut(passage.text, characters)] for passage in shelf.passages], "queries": rows}
        for shelf, rows in zip(shelves, queries, strict=True)
    ]
    return blocks, characters


def cut(text: str, characters: int) -> str:
    """Return a text, or its beginning with an ellipsis."""
    return text if len(text) <= characters else text[: max(0, characters - 1)].rstrip() + "…"


def _queries(evaluation: Evaluation, shelf: Shelf) -> list[dict[str, Any]]:
    passages = {topic.qid: {p.docid: p for p in topic.candidates} for topic in evaluation.suite.topics}
    corpus = evaluation.suite.corpus
    came = first_orders(evaluation)
    rankings = [{ranking.qid: ranking for ranking in system.rankings} for system in evaluation.systems]
    rows = []
    for qid in evaluation.qids:
        answers = [of.get(qid) or Ranking(qid, (), completion=UNANSWERED) for of in rankings]
        rows.append(_query(evaluation.suite.qrels[qid], came[qid], passages[qid], corpus, answers, shelf))
    return rows


def _query(
    grades: Mapping[str, int],
    first: Sequence[str],
    passages: Mapping[str, Passage],
    corpus: Mapping[str, str],
    answers: Sequence[Ranking],
    shelf: Shelf,
) -> dict[str, Any]:
    # What somebody shows, in the order in which the candidates came, and whatever is relevant among them.
    wanted = {docid for answer in answers for docid in answer.docids[:SHOWN]} | set(first[:SHOWN])
    wanted |= {docid for docid in first if grades.get(docid, 0) > 0}
    # A run file may name documents that neither list nor corpus has; nobody has told their texts.
    shown = [docid for docid in first if docid in wanted]
    shown += sorted(wanted - set(shown))
    place = {docid: index for index, docid in enumerate(shown)}
    return {
        "n": len(first),
        "relevant": sum(grade > 0 for grade in grades.values()),
        "found": sum(grades.get(docid, 0) > 0 for docid in first),
        "docs": [shelf.place(passages.get(docid) or Passage(docid, corpus.get(docid, ""))) for docid in shown],
        "grades": [grades.get(docid) for docid in shown],
        "systems": [_answer(answer, first, place, grades) for answer in answers],
    }


def _answer(
    answer: Ranking, first: Sequence[str], place: Mapping[str, int], grades: Mapping[str, int]
) -> dict[str, Any]:
    ranks = {docid: rank for rank, docid in enumerate(answer.docids, start=1)}
    found = classify(first, answer.docids, grades)
    spent = answer.spent
    written: dict[str, Any] = {
        "ranks": [ranks.get(docid, 0) for docid in place],
        "spent": [
            spent.calls,
            spent.prompt_tokens,
            None if spent.cost_usd is None else finite(round(spent.cost_usd, 12)),
            finite(round(spent.wall_s, DIGITS)),
        ],
    }
    # Only what is out of the ordinary: most answers have none of it, and there are thousands.
    extras = {
        "demoted": [place[docid] for docid in found.demoted],
        "promoted": [place[docid] for docid in found.promoted],
        "unjudged": [place[docid] for docid in found.unjudged],
        "repaired": spent.malformed_replies,
        "unreadable": spent.unreadable_replies,
        "unchanged": answer.unchanged,
        "completion": "" if answer.completion == COMPLETE else answer.completion,
        "error": answer.error,
    }
    return written | {key: value for key, value in extras.items() if value}
