"""The lists that a student is measured on, and what it measures."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from podium_server.errors import ConfigInvalid, InvalidRequest
from podium_server.jobs.ndcg import ndcg
from podium_server.jobs.qrels import read_qrels
from podium_server.training.examples import Document, Example, folded, objects
from podium_server.training.measures import order
from podium_server.training.recipe import Development

CANDIDATES = 100
"""Of a collection's query, by BM25."""

RANKS = 10
"""nDCG@10 is what is measured."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A list with what is known of its documents.

    Args:
        key: of the query, within its set.
        query: its text.
        texts: of documents, in first-stage order.
        gains: of each.
        ideal: gains of all that is judged, those outside the list included.

    """

    key: str
    query: str
    texts: tuple[str, ...]
    gains: tuple[float, ...]
    ideal: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """One set of lists.

    Args:
        name: of it.
        lists: of it.
        after: measured before and after the training only.
        weight: in the mean that decides.

    """

    name: str
    lists: tuple[Judged, ...]
    after: bool = False
    weight: float = 1.0

    @property
    def documents(self) -> int:
        """In all lists."""
        return sum(len(each.texts) for each in self.lists)

    def values(self, scores: Sequence[Sequence[float]]) -> dict[str, float]:
        """Return nDCG@10 of each query that has anything relevant, of its documents in the order of `scores`."""
        return {
            judged.key: ndcg([judged.gains[i] for i in order(own)], judged.ideal, RANKS)
            for judged, own in zip(self.lists, scores, strict=True)
            if any(gain > 0 for gain in judged.ideal)
        }

    def as_given(self) -> dict[str, float]:
        """Return nDCG@10 of the lists as they came."""
        return self.values([[-float(i) for i in range(len(each.texts))] for each in self.lists])


def mean(values: Mapping[str, float]) -> float:
    """Return the mean over the queries; 0 of none."""
    return sum(values.values()) / len(values) if values else 0.0


@dataclass(slots=True)
class Held:
    """Queries that must not be learnt from."""

    queries: set[str] = field(default_factory=set)

    def add(self, lists: Sequence[Judged]) -> None:
        """Hold the queries of lists."""
        self.queries.update(folded(each.query) for each in lists)

    def without(self, examples: Sequence[Example]) -> tuple[list[Example], int]:
        """Return the examples that may be learnt from, and how many may not."""
        left = [example for example in examples if folded(example.query) not in self.queries]
        return left, len(examples) - len(left)


def drawn(examples: Sequence[Example], entry: Development, seed: int) -> list[Example]:
    """Return the examples of an entry: those that it draws, or all."""
    if entry.queries is None or len(examples) <= entry.queries:
        return list(examples)
    return random.Random(f"{seed}/development").sample(list(examples), entry.queries)


def distinct(pairs: Sequence[Example]) -> list[Example]:
    """Return the first pair of each query and source."""
    seen: dict[tuple[str, str], Example] = {}
    for pair in pairs:
        seen.setdefault((pair.source, folded(pair.query)), pair)
    return list(seen.values())


def of_lists(
    examples: Sequence[Example], entry: Development, qrels: Mapping[str, Mapping[str, float]] | None
) -> tuple[Judged, ...]:
    """Return lists with labels, with judgments, or with a teacher's ranks for grades."""
    result = []
    for number, example in enumerate(examples):
        documents = list(example.documents[:: entry.every][: entry.documents])
        if all(document.rank is not None for document in documents):
            # The teacher's order is what is to be found again: equal scores must not be given it.
            random.Random(f"shuffled {number}").shuffle(documents)
        if qrels is not None:
            own = qrels.get(example.qid, {})
            gains = [own.get(document.docid, 0.0) for document in documents]
            ideal = list(own.values())
        else:
            gains = ideal = [_gain(document, entry) for document in documents]
        result.append(
            _judged(
                f"{number}:{example.qid or example.query}", example.query, [d.text for d in documents], gains, ideal
            )
        )
    return tuple(result)


def _gain(document: Document, entry: Development) -> float:
    if document.label is not None:
        return max(0.0, document.label)
    if document.rank is None:
        return 0.0
    return float(next((gain for rank, gain in entry.grades if document.rank <= rank), 0))


def of_pairs(mined: Sequence[Example], known: Sequence[Example], seed: int) -> tuple[Judged, ...]:
    """Return for each query its positives among the negatives that were mined for it, shuffled.

    Args:
        mined: one pair a query, with negatives.
        known: all pairs, for the query's other positives.
        seed: of the shuffling.

    """
    positives: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for pair in known:
        positives[pair.source, folded(pair.query)].setdefault(pair.documents[0].text)
    result = []
    for number, pair in enumerate(mined):
        own = {pair.documents[0].text: None, **positives[pair.source, folded(pair.query)]}
        texts = [*list(own)[:10], *(text for text in pair.others if text not in own)]
        gains = [float(text in own) for text in texts]
        places = random.Random(f"{seed}/{number}").sample(range(len(texts)), len(texts))
        shown = [gains[i] for i in places]
        result.append(_judged(f"{number}:{pair.query}", pair.query, [texts[i] for i in places], shown, shown))
    return tuple(result)


def _judged(key: str, query: str, texts: Sequence[str], gains: Sequence[float], ideal: Sequence[float]) -> Judged:
    return Judged(key, query, tuple(texts), tuple(gains), tuple(ideal))


def judgments(path: Path) -> dict[str, dict[str, float]]:
    """Read judgments (`jobs.qrels`).

    Raises:
        ConfigInvalid: the file cannot be read, or a line is none.

    """
    try:
        return read_qrels(path)
    except OSError as error:
        raise ConfigInvalid(f"{path}: cannot be read: {error}") from error
    except InvalidRequest as error:
        raise ConfigInvalid(error.message) from error


def of_collection(
    folder: Path, entry: Development, seed: int, progress: Callable[[str, int, int], None]
) -> tuple[Judged, ...]:
    """Return BM25's first 100 of a folder with corpus.jsonl[.gz], queries*.jsonl[.gz] and qrels*.

    Raises:
        ConfigInvalid: a file is missing or says nothing.

    """
    from podium_server.recall.lexical import scores, transpose
    from podium_server.recall.text import document_terms, query_terms

    corpus = {_id(row): _passage(row) for row in _rows(_one(folder, "corpus*.jsonl*"))}
    queries = {_id(row): str(row.get("query", row.get("text", ""))) for row in _rows(_one(folder, "queries*.jsonl*"))}
    qrels = judgments(_one(folder, "qrels*"))
    asked = sorted(qid for qid in queries if any(grade > 0 for grade in qrels.get(qid, {}).values()))
    if not corpus or not asked:
        raise ConfigInvalid(f"{folder}: no query has a relevant document")
    if entry.queries is not None and len(asked) > entry.queries:
        asked = sorted(random.Random(f"{seed}/development").sample(asked, entry.queries))
    ids = list(corpus)
    terms, counts, lengths = zip(*(document_terms(text) for text in corpus.values()), strict=True)
    postings, of_pool = (transpose(0, terms, counts),), np.array(lengths, np.int32)
    result = []
    for number, qid in enumerate(asked, 1):
        found = scores(postings, query_terms(queries[qid]), of_pool)
        best = [int(i) for i in np.argsort(-found, kind="stable")[: entry.documents or CANDIDATES] if found[i] > 0]
        own = qrels[qid]
        gains = [own.get(ids[i], 0.0) for i in best]
        # A query for which BM25 finds nothing counts, as 0.
        result.append(_judged(qid, queries[qid], [corpus[ids[i]] for i in best], gains, list(own.values())))
        if number % 50 == 0:
            progress(f"candidates of {folder.name}", number, len(asked))
    return tuple(result)


def _one(folder: Path, pattern: str) -> Path:
    files = sorted(folder.glob(pattern))
    if len(files) != 1:
        have = ", ".join(file.name for file in files) or "none"
        raise ConfigInvalid(f"{folder}: exactly one file {pattern} is needed; there is {have}")
    return files[0]


def _rows(path: Path) -> list[dict[str, Any]]:
    return list(objects(path))


def _id(row: Mapping[str, Any]) -> str:
    for key in ("docid", "qid", "_id", "id"):
        if key in row:
            return str(row[key])
    raise ConfigInvalid(f"a row without docid, qid, _id or id: {list(row)}")


def _passage(row: Mapping[str, Any]) -> str:
    title, text = str(row.get("title") or ""), str(row.get("text") or "")
    return f"{title}. {text}" if title else text
