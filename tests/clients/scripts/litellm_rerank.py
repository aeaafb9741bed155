"""litellm.rerank with each provider that Podium can stand in for."""

from __future__ import annotations

from typing import Any

import litellm
from asking import Task, main

litellm.suppress_debug_info = True


def rank(task: Task, top_n: int | None = None) -> list[tuple[int, float]]:
    provider, _, version = task.variant.partition(":")
    more: dict[str, Any] = {} if top_n is None else {"top_n": top_n}
    if version == "v2":  # it asks `/v2/rerank` where a parameter is Cohere v2's own
        more["max_tokens_per_doc"] = 512
    if provider == "infinity":
        more["return_documents"] = False
    response = litellm.rerank(
        model=f"{provider}/{task.model}",
        query=task.query,
        documents=task.documents,
        api_key=task.key,
        api_base=task.url,
        num_retries=0,
        **more,
    )
    return [(one["index"], one["relevance_score"]) for one in response.results]


main("litellm", rank, top=lambda task: rank(task, task.top_n))
