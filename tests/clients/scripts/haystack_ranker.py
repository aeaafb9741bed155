"""haystack: CohereRanker, JinaRanker, VLLMRanker, HuggingFaceTEIRanker."""

from __future__ import annotations

import sys
from typing import Any

from asking import Task, main
from haystack import Document
from haystack.utils import Secret

PACKAGES = {
    "CohereRanker": "cohere-haystack",
    "JinaRanker": "jina-haystack",
    "VLLMRanker": "vllm-haystack",
    "HuggingFaceTEIRanker": "huggingface-api-haystack",
}


def ranker(task: Task, top_k: int) -> Any:
    key = Secret.from_token(task.key)
    if task.variant == "CohereRanker":
        from haystack_integrations.components.rankers.cohere import CohereRanker

        return CohereRanker(model=task.model, api_key=key, api_base_url=task.url, top_k=top_k)
    if task.variant == "JinaRanker":
        from haystack_integrations.components.rankers.jina import JinaRanker

        return JinaRanker(model=task.model, api_key=key, base_url=task.url, top_k=top_k)
    if task.variant == "VLLMRanker":
        from haystack_integrations.components.rankers.vllm import VLLMRanker

        return VLLMRanker(model=task.model, api_key=key, api_base_url=task.url, top_k=top_k)
    from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker

    return HuggingFaceTEIRanker(url=task.url, token=key, top_k=top_k, max_retries=1)


def rank(task: Task, top_k: int | None = None) -> list[tuple[int, float]]:
    documents = [Document(content=text, id=str(i)) for i, text in enumerate(task.documents)]
    made = ranker(task, top_k or max(1, len(documents)))
    return [(int(one.id), one.score) for one in made.run(query=task.query, documents=documents)["documents"]]


main(PACKAGES[sys.argv[1]], rank, top=lambda task: rank(task, task.top_n))
