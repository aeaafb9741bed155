"""Lists for a corpus: its first stage is BM25, Podium's own, over whole documents."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from podium_evals.suite import Passage, Suite, Topic, checked
from podium_server.recall import lexical
from podium_server.recall.text import document_terms, query_terms

DEPTH = 100


def with_lists(suite: Suite, *, depth: int = DEPTH) -> Suite:
    """Return the suite with candidates: the best of its corpus by BM25, or as it is where it has lists already.

    Ties stand in the order of the corpus. What shares no word with the query is no candidate.

    Args:
        suite: with a corpus.
        depth: candidates of a query at most.

    """
    if not suite.corpus or any(topic.candidates for topic in suite.topics):
        return suite
    docids, texts = tuple(suite.corpus), tuple(suite.corpus.values())
    cut = [document_terms(text) for text in texts]
    lengths = np.array([length for _, _, length in cut], np.int32)
    postings = (lexical.transpose(0, [terms for terms, _, _ in cut], [counts for _, counts, _ in cut]),)

    def topic(asked: Topic) -> Topic:
        scores = lexical.scores(postings, query_terms(asked.query), lengths)
        best = [int(place) for place in np.argsort(-scores, kind="stable")[:depth] if scores[place] > 0]
        found = tuple(Passage(docids[place], texts[place], float(scores[place])) for place in best)
        return replace(asked, candidates=found)

    note = f"candidates are the first {depth} by BM25 of a corpus of {len(docids):,} documents"
    listed = replace(suite, topics=tuple(topic(asked) for asked in suite.topics))
    return checked(replace(listed, warnings=(*suite.warnings, note)))
