"""llama-index postprocessors: CohereRerank, JinaRerank, TextEmbeddingInference."""

from __future__ import annotations

from typing import Any

from asking import Task, main
from llama_index.core.schema import NodeWithScore, TextNode

PACKAGES = {
    "CohereRerank": "llama-index-postprocessor-cohere-rerank",
    "JinaRerank": "llama-index-postprocessor-jinaai-rerank",
    "TextEmbeddingInference": "llama-index-postprocessor-tei-rerank",
}


def ranker(task: Task, top_n: int) -> Any:
    if task.variant == "CohereRerank":
        from llama_index.postprocessor.cohere_rerank import CohereRerank

        return CohereRerank(api_key=task.key, model=task.model, base_url=task.url, top_n=top_n, max_retries=1)
    if task.variant == "JinaRerank":
        from llama_index.postprocessor.jinaai_rerank import JinaRerank

        return JinaRerank(api_key=task.key, model=task.model, base_url=task.url, top_n=top_n)
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    return TextEmbeddingInference(base_url=task.url, auth_token=f"Bearer {task.key}", top_n=top_n)


def rank(task: Task, top_n: int | None = None) -> list[tuple[int, float]]:
    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(i)), score=0.0) for i, text in enumerate(task.documents)]
    found = ranker(task, top_n or max(1, len(nodes))).postprocess_nodes(nodes, query_str=task.query)
    return [(int(one.node.node_id), one.score) for one in found]


if __name__ == "__main__":
    import sys

    main(PACKAGES[sys.argv[1]], rank, top=lambda task: rank(task, task.top_n))
