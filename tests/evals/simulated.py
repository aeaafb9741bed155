"""A small suite for the simulated judge, made of nothing but words, so that no test of it needs the data."""

from __future__ import annotations

from podium_evals.simulate.knowledge import Knowledge
from podium_evals.suite import Passage, Suite, Topic

WORDS = (
    *("amber", "basin", "cedar", "delta", "ember", "fjord", "glade", "heath", "islet"),
    *("jetty", "knoll", "ledge", "marsh", "nook", "oasis", "plain", "quay", "ridge"),
)


def suite(queries: int = 4, n: int = 30) -> Suite:
    """Return lists of `n` passages, none like another, with grades from 0 to 3 spread over all ranks."""
    topics = []
    qrels = {}
    for number in range(queries):
        qid = f"q{number}"
        passages = []
        grades = {}
        for place in range(n):
            docid = f"{qid}-d{place}"
            words = [WORDS[(place * 7 + number * 5 + i * (1 + place % 5)) % len(WORDS)] for i in range(12 + place % 9)]
            passages.append(
                Passage(docid, f"Passage number {place} of list {number}: {' '.join(words)}.", 30.0 - place)
            )
            grades[docid] = (0, 3, 0, 1, 0, 0, 2)[(place * 5 + number) % 7]
        topics.append(Topic(qid, f"what about the {WORDS[number]} and the {WORDS[-1 - number]}", tuple(passages)))
        qrels[qid] = grades
    return Suite("toy", tuple(topics), qrels)


def knowledge(queries: int = 4, n: int = 30) -> Knowledge:
    """Return the toy suite as the judge knows it."""
    return Knowledge(suite(queries, n))
