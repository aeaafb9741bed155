"""The OpenAPI document is valid, and true of the answers."""

from __future__ import annotations

from typing import Any

import jsonschema
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.rest.serving import CAPITALS, QUERY, resting
from tests.rest.test_native import body

EXAMPLES: dict[str, Any] = {
    "/cohere/v2/rerank": {"model": "points", "query": QUERY, "documents": CAPITALS, "top_n": 3},
    "/cohere/v1/rerank": {"query": QUERY, "documents": [{"text": "a"}], "return_documents": True},
    "/jina/v1/rerank": {"model": "points", "query": QUERY, "documents": CAPITALS, "top_n": 3},
    "/voyage/v1/rerank": {"model": "points", "query": QUERY, "documents": CAPITALS, "top_k": 3},
    "/tei/rerank": {"query": QUERY, "texts": CAPITALS, "return_text": True},
    "/vllm/rerank": {"query": QUERY, "documents": CAPITALS},
    "/vllm/score": {"model": "points", "text_1": QUERY, "text_2": CAPITALS},
    "/rerank": {"query": QUERY, "texts": CAPITALS},
    "/v1/rerank": {"query": QUERY, "documents": CAPITALS},
    "/v2/rerank": {"query": QUERY, "documents": CAPITALS},
    "/podium/v1/rerank": body(),
    "/podium/v1/compare": {"request": {"query": "q", "documents": [{"text": "a"}]}, "contenders": [{}]},
    "/podium/v1/estimate": {"request": body()},
    "/podium/v1/listStrategies": {},
    "/podium/v1/getLimits": {},
}
BAD = {"query": 7, "documents": {}, "texts": 7, "text_1": 7, "contenders": 7, "request": 7, "pageSize": "x"}


def schema(document: Any, path: str, verb: str, status: str) -> Any:
    content = document["paths"][path][verb]["responses"][status]["content"]
    return {**content["application/json"]["schema"], "components": document["components"]}


async def test_it_is_valid() -> None:
    async with resting() as rest:
        document = (await rest.http.get("/openapi.json")).json()
        page = await rest.http.get("/docs")
    OpenAPIV31SpecValidator(document).validate()
    assert document["openapi"] == "3.1.0"
    assert page.status_code == 200
    for path in document["paths"]:
        assert path in page.text
    # Nothing on it comes from elsewhere.
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "<script" not in page.text


async def test_answers_and_errors_are_as_it_says() -> None:
    async with resting() as rest:
        document = (await rest.http.get("/openapi.json")).json()
        for path, example in EXAMPLES.items():
            answer = await rest.post(path, example)
            error = await rest.post(path, BAD)
            assert answer.status_code == 200, (path, answer.text)
            jsonschema.validate(answer.json(), schema(document, path, "post", "200"))
            assert error.status_code in (400, 422), (path, error.text)
            jsonschema.validate(error.json(), schema(document, path, "post", "default"))


async def test_facts_are_as_it_says() -> None:
    async with resting() as rest:
        document = (await rest.http.get("/openapi.json")).json()
        for path in ("/v1/models", "/cohere/v1/models", "/vllm/v1/models", "/info", "/version"):
            answer = await rest.http.get(path)
            jsonschema.validate(answer.json(), schema(document, path, "get", "200"))
