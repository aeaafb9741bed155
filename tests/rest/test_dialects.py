"""Each dialect answers with its own fields, over a real socket, for the example of its own reference."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from podium_server.judges.judge import ScoreKind
from podium_server.rest.dialects import cohere, jina, shared, tei, vllm, voyage
from tests.rest.serving import CAPITALS, QUERY, Grading, Rest, resting, truth
from tests.wire.serving import standing

# Washington, then capital punishment, then Nevada, as in Cohere's reference.
ORDER = (3, 4, 0, 1, 2)


def judged(kind: ScoreKind = ScoreKind.PROBABILITY) -> Any:
    """Return a Podium whose pipeline `points` gives these scores, and `window` the same order without scores."""
    return standing(Grading(truth(*ORDER), kind=kind))


async def ranked(rest: Rest, path: str, body: Any) -> Any:
    answer = await rest.post(path, body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def fits(kind: Any, value: Any) -> None:
    """The answer has the fields of its type, and no others."""
    schema = TypeAdapter(kind)
    schema.validate_python(value)
    assert schema.dump_python(schema.validate_python(value)) == value


async def test_cohere_v2() -> None:
    body = {"model": "points", "query": QUERY, "documents": CAPITALS, "top_n": 3, "max_tokens_per_doc": None}
    async with resting(judged()) as rest:
        given = await ranked(rest, "/cohere/v2/rerank", body)
    fits(cohere.Reranked, given)
    assert [result["index"] for result in given["results"]] == [3, 4, 0]
    assert given["meta"]["api_version"] == {"version": "2", "is_experimental": False}
    assert given["meta"]["billed_units"] == {"search_units": 1}


async def test_cohere_v1_gives_documents_back_and_reads_the_fields_that_are_named() -> None:
    documents = [{"title": f"t{place}", "text": text, "year": place} for place, text in enumerate(CAPITALS)]
    body = {
        "model": "points",
        "query": QUERY,
        "documents": documents,
        "rank_fields": ["title", "year"],
        "return_documents": True,
        "max_chunks_per_doc": 10,
    }
    async with resting(judged()) as rest:
        answer = await rest.post("/cohere/v1/rerank", body)
        strings = await ranked(rest, "/cohere/v1/rerank", {**body, "documents": CAPITALS})
    given = answer.json()
    fits(cohere.Reranked, given)
    assert given["meta"]["api_version"] == {"version": "1"}
    assert [result["document"] for result in given["results"]] == [documents[place] for place in ORDER]
    assert answer.headers["x-podium-ignored"] == "max_chunks_per_doc"
    assert any("max_chunks_per_doc" in warning for warning in given["meta"]["warnings"])
    assert strings["results"][0]["document"] == {"text": CAPITALS[3]}


@pytest.mark.parametrize("keys", [[""], ["a", ""], [" "], ["\t"], ["é"], ["\u0000"], ["x" * 99]])
async def test_keys_that_nobody_reads_break_no_header(keys: list[str]) -> None:
    async with resting(judged()) as rest:
        body = {"model": "points", "query": QUERY, "documents": CAPITALS, **dict.fromkeys(keys, 1)}
        answer = await rest.post("/cohere/v2/rerank", body)
        assert answer.status_code == 200
        assert answer.headers["x-podium-ignored"].count(",") == len(keys) - 1


async def test_jina() -> None:
    body = {"model": "points", "query": QUERY, "documents": CAPITALS, "top_n": 2}
    async with resting(judged()) as rest:
        given = await ranked(rest, "/jina/v1/rerank", body)
        bare = await ranked(rest, "/jina/v1/rerank", {**body, "return_documents": False})
        objects = {"query": {"text": QUERY}, "documents": [{"text": text} for text in CAPITALS]}
        same = await ranked(rest, "/jina/v1/rerank", {**body, **objects})
    fits(jina.Reranked, given)
    assert given["model"] == "points"
    assert [result["document"]["text"] for result in given["results"]] == [CAPITALS[3], CAPITALS[4]]
    assert "document" not in bare["results"][0]
    assert same["results"] == given["results"]


async def test_voyage() -> None:
    body = {"model": "points", "query": QUERY, "documents": CAPITALS, "top_k": 2, "return_documents": True}
    async with resting(judged()) as rest:
        given = await ranked(rest, "/voyage/v1/rerank", body)
        at_the_root = await ranked(rest, "/v1/rerank", {**body, "return_documents": False})
    fits(voyage.Reranked, given)
    fits(voyage.Reranked, at_the_root)
    assert [result["document"] for result in given["data"]] == [CAPITALS[3], CAPITALS[4]]
    assert given["object"] == "list"
    assert "document" not in at_the_root["data"][0]


async def test_tei_gives_all_texts_back_the_best_first() -> None:
    body = {"query": QUERY, "texts": CAPITALS, "truncate": True, "return_text": True, "raw_scores": False}
    async with resting(judged()) as rest:
        given = await ranked(rest, "/tei/points/rerank", body)
        at_the_root = await ranked(rest, "/rerank", {"query": QUERY, "texts": CAPITALS})
    fits(list[tei.Rank], given)
    assert [rank["index"] for rank in given] == list(ORDER)
    assert [rank["text"] for rank in given] == [CAPITALS[place] for place in ORDER]
    # The default pipeline keeps the order.
    assert [rank["index"] for rank in at_the_root] == list(range(5))
    assert set(at_the_root[0]) == {"index", "score"}


async def test_tei_raw_scores_are_the_models_own() -> None:
    async with resting(judged(ScoreKind.LOGIT)) as rest:
        raw = await ranked(rest, "/tei/points/rerank", {"query": "q", "texts": CAPITALS, "raw_scores": True})
        turned = await ranked(rest, "/tei/points/rerank", {"query": "q", "texts": CAPITALS})
    assert all(0 <= rank["score"] <= 1 for rank in turned)
    assert raw[0]["score"] > 1
    assert [rank["index"] for rank in raw] == [rank["index"] for rank in turned]


async def test_vllm() -> None:
    body = {"model": "points", "query": QUERY, "documents": CAPITALS, "top_n": 2, "truncate_prompt_tokens": -1}
    parts = {"content": [{"type": "text", "text": text} for text in CAPITALS]}
    async with resting(judged()) as rest:
        for path in ("/vllm/rerank", "/vllm/v1/rerank", "/vllm/v2/rerank", "/rerank", "/v1/rerank", "/v2/rerank"):
            given = await ranked(rest, path, body)
            fits(vllm.Reranked, given)
            assert given["results"][0]["document"]["text"] == CAPITALS[3]
        everything = await ranked(rest, "/vllm/rerank", {**body, "top_n": 0})
        of_parts = await ranked(rest, "/vllm/rerank", {**body, "documents": parts})
    assert len(everything["results"]) == 5
    assert of_parts["results"] == given["results"]


async def test_the_root_answers_with_the_fields_of_all() -> None:
    body = {"model": "points", "query": QUERY, "documents": CAPITALS}
    async with resting(judged()) as rest:
        for path in ("/rerank", "/v1/rerank"):
            given = await ranked(rest, path, body)
            fits(shared.Reranked, given)
            assert {"id", "model", "usage", "results", "meta"} <= set(given)
        v2 = await ranked(rest, "/v2/rerank", body)
        fits(shared.RerankedV2, v2)
        assert {"id", "results", "meta", "model", "usage"} == set(v2)
        # The SDK of Cohere names itself.
        answer = await rest.post("/v1/rerank", body, headers={"x-fern-sdk-name": "cohere"})
        fits(cohere.Reranked, answer.json())


async def test_model_names_a_pipeline_or_what_the_configuration_maps_to_one() -> None:
    async with resting(judged(), models={"rerank-v3.5": "points"}) as rest:
        mapped = await rest.post("/v2/rerank", {"model": "rerank-v3.5", "query": "q", "documents": CAPITALS})
        default = await rest.post("/v2/rerank", {"query": "q", "documents": CAPITALS})
        unknown = await rest.post("/cohere/v2/rerank", {"model": "rerank-v9", "query": "q", "documents": CAPITALS})
    assert mapped.headers["x-podium-pipeline"] == "points"
    assert mapped.json()["model"] == "rerank-v3.5"
    assert default.headers["x-podium-pipeline"] == "identity"
    assert default.json()["model"] == "identity"
    assert unknown.status_code == 404
    for name in ("identity", "points", "window", "rerank-v3.5"):
        assert name in unknown.json()["message"]


REFUSALS = {
    "/cohere/v2/rerank": (404, 400, lambda body: body["message"]),
    "/cohere/v1/rerank": (404, 400, lambda body: body["message"]),
    "/jina/v1/rerank": (404, 400, lambda body: body["detail"]),
    "/voyage/v1/rerank": (400, 400, lambda body: body["detail"]),
    "/vllm/v1/rerank": (404, 400, lambda body: body["error"]["message"]),
    "/v1/rerank": (404, 400, lambda body: body["detail"] and body["message"] and body["error"]["message"]),
    "/v2/rerank": (404, 400, lambda body: body["detail"] and body["message"] and body["error"]["message"]),
}


@pytest.mark.parametrize("path", REFUSALS)
async def test_errors_are_the_dialects_own(path: str) -> None:
    not_there, bad, said = REFUSALS[path]
    async with resting() as rest:
        unknown = await rest.post(path, {"model": "zzz", "query": "q", "documents": ["a"]})
        none = await rest.post(path, {"query": "q", "documents": []})
        missing = await rest.post(path, {"documents": ["a"]})
        broken = await rest.http.post(path, content=b"{", headers={"content-type": "application/json"})
    assert (unknown.status_code, none.status_code, missing.status_code, broken.status_code) == (
        not_there,
        bad,
        bad,
        bad,
    )
    assert "zzz" in said(unknown.json())
    assert "documents" in said(none.json())
    assert "query" in said(missing.json())
    assert "JSON" in said(broken.json())
    assert all(each.headers["x-request-id"] for each in (unknown, none, missing, broken))


async def test_teis_errors() -> None:
    async with resting() as rest:
        none = await rest.post("/tei/rerank", {"query": "q", "texts": []})
        missing = await rest.post("/tei/rerank", {"query": "q"})
        many = await rest.post("/tei/rerank", {"query": "q", "texts": ["a"] * 10_001})
        unknown = await rest.post("/tei/zzz/rerank", {"query": "q", "texts": ["a"]})
    assert (none.status_code, none.json()["error_type"]) == (400, "Empty")
    assert (missing.status_code, missing.json()["error_type"]) == (422, "Validation")
    assert (many.status_code, many.json()["error_type"]) == (413, "Validation")
    assert "texts" in many.json()["error"]
    assert unknown.status_code == 404


async def test_what_must_fit_is_refused_where_it_was_cut() -> None:
    async with resting(standing(Grading(truth(*ORDER), cuts=True))) as rest:
        cut = await rest.post("/voyage/v1/rerank", {"model": "points", "query": "q", "documents": CAPITALS})
        refused = await rest.post(
            "/voyage/v1/rerank", {"model": "points", "query": "q", "documents": CAPITALS, "truncation": False}
        )
        of_tei = await rest.post("/tei/points/rerank", {"query": "q", "texts": CAPITALS, "truncate": False})
    assert cut.status_code == 200
    assert "truncated" in cut.headers["x-podium-warnings"]
    assert refused.status_code == 400
    assert "longer" in refused.json()["detail"]
    assert of_tei.status_code == 422
    assert refused.headers["x-podium-ledger"]


async def test_score_of_one_against_many_comes_in_the_order_of_the_request() -> None:
    async with resting(judged(ScoreKind.LOGIT)) as rest:
        body = {"model": "points", "text_1": QUERY, "text_2": CAPITALS}
        given = await ranked(rest, "/score", body)
        raw = await ranked(rest, "/v1/score", {**body, "use_activation": False})
        renamed = await ranked(rest, "/vllm/score", {"model": "points", "queries": [QUERY], "documents": CAPITALS})
    scores = [each["score"] for each in given["data"]]
    assert [each["index"] for each in given["data"]] == [0, 1, 2, 3, 4]
    assert sorted(range(5), key=lambda place: -scores[place]) == list(ORDER)
    assert all(0 <= score <= 1 for score in scores)
    assert raw["data"][3]["score"] > 1
    assert renamed["data"] == given["data"]


async def test_score_of_pairs() -> None:
    async with resting(judged(ScoreKind.LOGIT)) as rest:
        body = {"model": "points", "text_1": ["a", "b", "a"], "text_2": ["x", "y", "z"]}
        given = await ranked(rest, "/score", body)
        uneven = await rest.post("/score", {**body, "text_2": ["x", "y"]})
        ordered = await rest.post("/score", {**body, "model": "window"})
        unknown = await rest.post("/score", {**body, "model": "zzz"})
        both = await rest.post("/score", {**body, "queries": "a", "documents": "b"})
    assert [each["index"] for each in given["data"]] == [0, 1, 2]
    assert uneven.status_code == 400
    assert ordered.status_code == 400
    assert "pair alone" in ordered.json()["error"]["message"]
    assert unknown.status_code == 404
    assert both.status_code == 400


async def test_lists_of_models() -> None:
    async with resting(models={"rerank-v3.5": "points"}) as rest:
        whole = (await rest.http.get("/v1/models")).json()
        of_cohere = (await rest.http.get("/cohere/v1/models")).json()
        of_vllm = (await rest.http.get("/vllm/v1/models")).json()
        info = (await rest.http.get("/info")).json()
        of_points = (await rest.http.get("/tei/points/info")).json()
        nobody = await rest.http.get("/tei/zzz/info")
    names = ["identity", "points", "window", "rerank-v3.5"]
    assert [model["id"] for model in whole["data"]] == names
    assert [model["name"] for model in of_cohere["models"]] == names
    assert [model["root"] for model in of_vllm["data"]][-1] == "points"
    assert (info["model_id"], of_points["model_id"]) == ("identity", "points")
    assert info["max_client_batch_size"] == 10_000
    assert nobody.status_code == 404


async def test_health_follows_readiness_and_the_drain() -> None:
    podium = standing()
    async with resting(podium) as rest:
        for path in ("/health", "/tei/health", "/vllm/health"):
            assert (await rest.http.get(path)).status_code == 200
        podium.rerank_ready = False
        assert (await rest.http.get("/health")).status_code == 503
        podium.rerank_ready = True
        rest.server.door.close()
        assert (await rest.http.get("/health")).status_code == 503
        refused = await rest.post("/v2/rerank", {"query": "q", "documents": ["a"]})
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
