"""voyageai: Client and AsyncClient."""

from __future__ import annotations

from typing import Any

import voyageai
from asking import Task, main


def told(task: Task, response: Any) -> list[tuple[int, float]]:
    assert isinstance(response.total_tokens, int)
    assert all(one.document == task.documents[one.index] for one in response.results)
    return [(one.index, one.relevance_score) for one in response.results]


def rank(task: Task, top_k: int | None = None) -> Any:
    asked = {"query": task.query, "documents": task.documents, "model": task.model, "top_k": top_k}
    made = {"api_key": task.key, "base_url": task.url}
    if task.variant == "AsyncClient":

        async def asynchronous() -> list[tuple[int, float]]:
            return told(task, await voyageai.AsyncClient(**made).rerank(**asked))

        return asynchronous()
    return told(task, voyageai.Client(**made).rerank(**asked))


main("voyageai", rank, top=lambda task: rank(task, task.top_n))
