"""langchain-cohere: CohereRerank, by `rerank` and by `compress_documents`."""

from __future__ import annotations

from asking import Task, main
from langchain_cohere import CohereRerank
from langchain_core.documents import Document


def rank(task: Task, top_n: int | None = None) -> list[tuple[int, float]]:
    ranker = CohereRerank(model=task.model, cohere_api_key=task.key, base_url=task.url, top_n=top_n)
    found = ranker.rerank(task.documents, task.query, top_n=top_n)
    documents = [Document(page_content=text, metadata={"place": i}) for i, text in enumerate(task.documents)]
    ranked = [(one["index"], one["relevance_score"]) for one in found]
    compressed = ranker.compress_documents(documents, task.query)
    assert [(one.metadata["place"], one.metadata["relevance_score"]) for one in compressed] == ranked
    return ranked


main("langchain-cohere", rank, top=lambda task: rank(task, task.top_n))
