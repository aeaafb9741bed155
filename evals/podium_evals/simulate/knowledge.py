"""What the simulated judge knows: a suite's queries, documents and judgments, and how to find them in a prompt.

A document is known by its text. Prompts clean it (ftfy), neutralise brackets in it and cut it, so what is compared is
its letters and digits, and a beginning (or, cut at the other side, an end) of it is enough.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from statistics import fmean, median, pstdev

from podium_evals.simulate.noise import Merits
from podium_evals.suite import Suite, Topic
from podium_server.judges.chat.documents import mended

KEY = 24
"""Letters by which texts are looked up; a text that is shorter is looked up whole."""
LEAST = 8
"""Letters that a cut text must have left to be known by them."""


class Unknown(LookupError):
    """A text that is none of the suite's. The message says which."""


def letters(text: str) -> str:
    """Return the letters and digits of a text in lower case: ASCII's alone where it has enough of them."""
    plain = re.sub(r"[^a-z0-9]", "", text.lower())
    return plain if 3 * len(plain) >= len(text) else "".join(filter(str.isalnum, text.lower()))


@dataclass(slots=True)
class _Index:
    """Texts by the beginning and the end of their letters."""

    whole: dict[str, list[str]] = field(default_factory=dict)
    heads: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    tails: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def add(self, name: str, text: str) -> None:
        for form in {letters(text), letters(mended(text))}:
            self.whole.setdefault(form, []).append(name)
            self.heads.setdefault(form[:KEY], []).append((form, name))
            self.tails.setdefault(form[-KEY:], []).append((form, name))

    def find(self, text: str) -> list[str]:
        """Return the names of the texts that this one is, or is the most of; empty where there is none."""
        sought = letters(text)
        if sought in self.whole:
            return list(dict.fromkeys(self.whole[sought]))
        if len(sought) < LEAST:
            return []
        for table, at in ((self.heads, slice(None, KEY)), (self.tails, slice(-KEY, None))):
            same = table.get(sought[at], []) if len(sought) >= KEY else _beginning(table, sought, at)
            best: dict[str, int] = {}
            for form, name in same:
                shared = _shared(form, sought) if at.start is None else _shared(form[::-1], sought[::-1])
                best[name] = max(shared, best.get(name, 0))
            if best:
                most = max(best.values())
                return [name for name, shared in best.items() if shared == most]
        return []


def _beginning(table: Mapping[str, list[tuple[str, str]]], sought: str, at: slice) -> list[tuple[str, str]]:
    begins = str.startswith if at.start is None else str.endswith
    return [entry for key, entries in table.items() if begins(key, sought) for entry in entries]


def _shared(one: str, other: str) -> int:
    limit = min(len(one), len(other))
    return next((place for place in range(limit) if one[place] != other[place]), limit)


class Knowledge:
    """A suite as the judge knows it.

    Args:
        suite: with candidates, or with a corpus.

    """

    def __init__(self, suite: Suite) -> None:
        self.name = suite.name
        self.queries: dict[str, str] = {topic.qid: topic.query for topic in suite.topics}
        self._merits: dict[str, dict[str, Merits]] = {}
        self._qids = _Index()
        self._docids = _Index()
        self._found: dict[tuple[str, str], tuple[str, ...]] = {}
        self._exactly: dict[str, str] = {}
        self._grades = suite.qrels
        self._highest = max((grade for graded in suite.qrels.values() for grade in graded.values()), default=1)
        texts: dict[str, str] = dict(suite.corpus)
        for topic in suite.topics:
            self._qids.add(topic.qid, topic.query)
            self._exactly.setdefault(topic.query, topic.qid)
            self._merits[topic.qid] = self._of(topic)
            texts.update((passage.docid, passage.text) for passage in topic.candidates)
        for docid, text in texts.items():
            self._docids.add(docid, text)

    def _of(self, topic: Topic) -> dict[str, Merits]:
        words = [len(passage.text.split()) for passage in topic.candidates]
        usual = median(words) if words else 1.0
        known = [passage.score or 0.0 for passage in topic.candidates]
        mean, deviation = (fmean(known), pstdev(known) or 1.0) if known else (0.0, 1.0)
        grades = self._grades.get(topic.qid, {})
        return {
            passage.docid: Merits(
                passage.docid,
                max(0, grades.get(passage.docid, 0)),
                self._highest,
                rank,
                log(max(count, 1) / max(usual, 1.0)),
                (score - mean) / deviation,
            )
            for rank, (passage, count, score) in enumerate(zip(topic.candidates, words, known, strict=True))
        }

    def merits(self, qid: str, docid: str) -> Merits:
        """Return what there is to a document; one outside the query's list has its grade and is average else."""
        known = self._merits[qid].get(docid)
        if known is not None:
            return known
        grade = max(0, self._grades.get(qid, {}).get(docid, 0))
        return Merits(docid, grade, self._highest, len(self._merits[qid]))

    def query(self, text: str) -> str:
        """Return the qid of a query's text, or of the longest query that stands in a text.

        Raises:
            Unknown: none does.

        """
        exactly = self._exactly.get(text)
        if exactly is not None:
            return exactly
        found = self._qids.whole.get(letters(text))
        if found:
            return found[0]
        plain = letters(text)
        inside = [(len(form), names[0]) for form, names in self._qids.whole.items() if form and form in plain]
        if not inside:
            raise Unknown(f"no query of the suite {self.name} is {_start(text)}")
        return max(inside)[1]

    def documents(self, qid: str, texts: Sequence[str]) -> list[Merits]:
        """Return the documents that stand in a prompt, in the order shown; of twins each one once.

        Raises:
            Unknown: one of them is not in the suite.

        """
        taken: set[str] = set()
        found = []
        for place, text in enumerate(texts, start=1):
            names = self._candidates(qid, text)
            if not names:
                raise Unknown(f"document {place} of the prompt is none of the suite {self.name}: {_start(text)}")
            docid = next((name for name in names if name not in taken), names[0])
            taken.add(docid)
            found.append(self.merits(qid, docid))
        return found

    def _candidates(self, qid: str, text: str) -> tuple[str, ...]:
        names = self._found.get((qid, text))
        if names is None:
            everywhere = self._docids.find(text)
            listed = [name for name in everywhere if name in self._merits[qid]]
            listed.sort(key=lambda name: self._merits[qid][name].rank)
            names = self._found[qid, text] = tuple(listed or everywhere)
            if len(self._found) > 1 << 20:
                self._found.clear()
        return names


def _start(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "…")
