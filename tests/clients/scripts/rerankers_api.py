"""rerankers: APIRanker with the providers that it can be pointed elsewhere with."""

from __future__ import annotations

from typing import Any

from asking import Task, main
from rerankers.models.api_rankers import APIRanker


def ranked(task: Task) -> Any:
    made = APIRanker(task.model, task.key, task.variant, verbose=0, url=task.url)
    return made.rank(task.query, task.documents, doc_ids=list(range(len(task.documents))))


def rank(task: Task) -> list[tuple[int, float]]:
    return [(one.document.doc_id, one.score) for one in ranked(task).results]


def top(task: Task) -> list[tuple[int, float]]:
    """It has no way to ask for fewer; its results do."""
    return [(one.document.doc_id, one.score) for one in ranked(task).top_k(task.top_n)]


main("rerankers", rank, top=top)
