"""huggingface_hub at TEI's `/rerank`: InferenceClient.post, which it had until 0.30, and its session since."""

from __future__ import annotations

import json

import huggingface_hub
from asking import Task, main


def rank(task: Task) -> list[tuple[int, float]]:
    body = {"query": task.query, "texts": task.documents}
    if task.variant == "InferenceClient.post":
        client = huggingface_hub.InferenceClient(token=task.key, provider="hf-inference")
        found = json.loads(client.post(json=body, model=f"{task.url}/rerank"))
    else:
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        headers = build_hf_headers(token=task.key)
        response = get_session().post(f"{task.url}/rerank", json=body, headers=headers)
        hf_raise_for_status(response)
        found = response.json()
    return [(one["index"], one["score"]) for one in found]


def top(task: Task) -> list[tuple[int, float]]:
    """TEI gives all back."""
    return rank(task)[: task.top_n]


main("huggingface_hub", rank, top=top)
