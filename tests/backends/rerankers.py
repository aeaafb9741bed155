"""Rerank endpoints on real sockets, each of which answers as its provider documents, by a score that a test knows."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from typing import Any

from podium_server.backends.rerank_api.dialects import DIALECTS
from tests.backends.naughty import Behaviour, Naughty, Request, _send

PATHS = {name: one.path for name, one in DIALECTS.items()}


def logit(query: str, text: str) -> float:
    """What the model behind every one of them thinks."""
    return ((sum(map(ord, query)) * 31 + sum(map(ord, text)) * 7) % 97 - 48) / 8


def probability(query: str, text: str) -> float:
    return 1 / (1 + math.exp(-logit(query, text)))


def tokens(request: dict[str, Any]) -> int:
    texts = request.get("documents") or request.get("texts") or []
    return sum(len(text.split()) + len(request["query"].split()) for text in texts)


def sent(request: dict[str, Any]) -> list[str]:
    texts: list[str] = request["texts"] if "texts" in request else request["documents"]
    return texts


def reply(dialect: str, request: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    """Return the body that a provider documents, with its headers, sorted from the best."""
    query, texts = request["query"], sent(request)
    raw = request.get("raw_scores") is True or request.get("use_activation") is False
    scores = [(logit if raw else probability)(query, text) for text in texts]
    order = sorted(range(len(texts)), key=lambda i: -scores[i])
    ranked: list[dict[str, Any]] = [{"index": i, "relevance_score": scores[i]} for i in order]
    used = tokens(request)
    match dialect:
        case "cohere-v2":
            units = -(-len(texts) // 100)
            meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": float(units)}}
            return {"id": "0773", "results": ranked, "meta": meta}, {}
        case "cohere-v1":
            meta = {"api_version": {"version": "1"}, "billed_units": {"search_units": -(-len(texts) // 100)}}
            return {"id": "0773", "results": ranked, "meta": meta}, {}
        case "jina":
            return {
                "model": request["model"],
                "object": "list",
                "usage": {"total_tokens": used},
                "results": ranked,
            }, {}
        case "voyage":
            return {
                "object": "list",
                "data": ranked,
                "model": request["model"],
                "usage": {"total_tokens": used},
            }, {}
        case "tei":
            listed = [{"index": i, "score": scores[i]} for i in order]
            return listed, {"x-compute-tokens": str(used), "x-compute-time": "3"}
        case "infinity":
            return {
                "object": "rerank",
                "results": ranked,
                "model": request["model"],
                "usage": {"prompt_tokens": used, "total_tokens": used},
                "id": "infinity-1",
                "created": 1,
            }, {}
        case "vllm":
            for one in ranked:
                one["document"] = {"text": texts[one["index"]], "multi_modal": None}
            return {
                "id": "score-1",
                "model": request["model"],
                "usage": {"prompt_tokens": used, "total_tokens": used},
                "results": ranked,
            }, {}
    raise AssertionError(dialect)


def answering(dialect: str, *, wait_s: float = 0.0) -> Behaviour:
    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        if wait_s:
            await asyncio.sleep(wait_s)
        body, headers = reply(dialect, request.body)
        await _send(writer, 200, json.dumps(body).encode(), headers)

    return behave


def endpoint(dialect: str, *behaviours: Behaviour, **options: Any) -> Naughty:
    """Return an endpoint of a dialect that does these things first and then answers."""
    return Naughty(*behaviours, answering(dialect), path=PATHS[dialect], **options)


def results(scores: Sequence[Any], field: str = "relevance_score") -> list[dict[str, Any]]:
    return [{"index": i, field: score} for i, score in enumerate(scores)]
