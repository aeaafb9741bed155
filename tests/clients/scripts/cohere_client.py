"""cohere: Client (`/v1/rerank`), ClientV2 and AsyncClientV2 (`/v2/rerank`)."""

from __future__ import annotations

from typing import Any

import cohere
from asking import Task, main

# Its own retries would ask a wrong key three times.
ONCE: Any = {"max_retries": 0}


def told(response: Any) -> list[tuple[int, float]]:
    return [(one.index, one.relevance_score) for one in response.results]


def arguments(task: Task, top_n: int | None) -> dict[str, Any]:
    more = {} if top_n is None else {"top_n": top_n}
    return {"model": task.model, "query": task.query, "documents": task.documents, "request_options": ONCE, **more}


def rank(task: Task, top_n: int | None = None) -> Any:
    asked = arguments(task, top_n)
    if task.variant == "AsyncClientV2":

        async def asynchronous() -> list[tuple[int, float]]:
            async with cohere.AsyncClientV2(api_key=task.key, base_url=task.url) as client:
                return told(await client.rerank(**asked))

        return asynchronous()
    client = {"Client": cohere.Client, "ClientV2": cohere.ClientV2}[task.variant](api_key=task.key, base_url=task.url)
    return told(client.rerank(**asked))


main("cohere", rank, top=lambda task: rank(task, task.top_n))
