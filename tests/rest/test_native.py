"""The contract as JSON: every method, streams as lines and as events, errors as `google.rpc.Status`."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf import json_format

from podium.v1 import rerank_service_pb2
from podium_server.transport.server import SERVICES
from tests.rest.serving import resting
from tests.wire.serving import request, standing

NDJSON = {"content-type": "application/x-ndjson"}


def body(n: int = 4, pipeline: str = "window") -> Any:
    return json_format.MessageToDict(request(n, pipeline))


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines() if line]


async def test_every_method_has_a_path() -> None:
    async with resting() as rest:
        for service in SERVICES:
            for method in service.methods:
                path = f"/podium/v1/{method.name[0].lower()}{method.name[1:]}"
                answer = await rest.http.post(path, content=b"", headers={"content-type": "application/json"})
                assert answer.status_code != 404 or "nothing is at" not in answer.text, path
                assert answer.status_code < 500, (path, answer.text)


async def test_rerank_is_what_grpc_answers() -> None:
    async with resting() as rest:
        answer = await rest.post("/podium/v1/rerank", body(9))
        said = await rest.grpc.Rerank(request(9, "window"))
    assert answer.status_code == 200
    given = json_format.ParseDict(answer.json(), rerank_service_pb2.RerankResponse())
    assert given.ranking == said.ranking
    assert given.ledger.total.calls == said.ledger.total.calls
    # What is 0 is there all the same.
    assert sorted(ranked["inputIndex"] for ranked in answer.json()["ranking"]) == list(range(9))


async def test_a_stream_is_lines_or_events() -> None:
    async with resting() as rest:
        asked = {"request": body(9)}
        plain = await rest.post("/podium/v1/streamRerank", asked)
        events = await rest.post("/podium/v1/streamRerank", asked, headers={"accept": "text/event-stream"})
    assert plain.headers["content-type"] == "application/x-ndjson"
    assert [next(iter(each)) for each in lines(plain.text)][-1] == "response"
    assert "snapshot" in lines(plain.text)[0]
    assert events.headers["content-type"] == "text/event-stream"
    last = events.text.strip().split("\n\n")[-1]
    assert "response" in json.loads(last.removeprefix("data: "))


async def test_a_batch_is_lines_or_an_array() -> None:
    items = [{"itemId": str(number), "request": body(5)} for number in range(20)]
    items.append({"itemId": "bad", "request": {"query": ""}})
    async with resting() as rest:
        sent = "\n".join(json.dumps(item) for item in items).encode()
        streamed = await rest.http.post("/podium/v1/batchRerank", content=sent, headers=NDJSON)
        whole = await rest.post("/podium/v1/batchRerank", items)
    for answer in (streamed, whole):
        found = {each["itemId"]: each for each in lines(answer.text)}
        assert set(found) == {item["itemId"] for item in items}
        assert found["bad"]["error"]["code"] == 3
        assert len(found["7"]["response"]["ranking"]) == 5


async def test_errors_are_the_status_with_its_details() -> None:
    async with resting() as rest:
        unknown = await rest.post("/podium/v1/rerank", body(4, "zzz"))
        early = await rest.post("/podium/v1/streamRerank", {"request": body(4, "zzz")})
        wrong = await rest.post("/podium/v1/rerank", {"query": "q", "nonsense": 1})
        late = await rest.http.post("/podium/v1/batchRerank", content=b'{"itemId":"1"}\n{', headers=NDJSON)
    assert unknown.status_code == early.status_code == 404
    assert unknown.json()["code"] == 5
    kinds = {detail["@type"].rsplit("/", 1)[1] for detail in unknown.json()["details"]}
    assert {"google.rpc.ErrorInfo", "google.rpc.ResourceInfo"} <= kinds
    assert wrong.status_code == 400
    assert "nonsense" in wrong.json()["message"]
    # The stream may have begun or not.
    told = late.json() if late.status_code == 400 else lines(late.text)[-1]["error"]
    assert told["code"] == 3


async def test_without_a_store_the_methods_of_the_index_say_so() -> None:
    async with resting() as rest:
        answer = await rest.post("/podium/v1/listCollections", {})
        upsert = await rest.http.post("/podium/v1/upsertDocuments", content=b"", headers=NDJSON)
    assert answer.status_code == 400
    assert "store" in answer.json()["message"]
    assert upsert.status_code == 400


async def test_an_error_of_ours_shows_nothing() -> None:
    async with resting(standing()) as rest:

        async def broken(*_: Any) -> Any:
            raise RuntimeError("a secret")

        door = rest.server.door
        name = "/podium.v1.RerankService/Rerank"
        object.__setattr__(door.methods[name], "answer", broken)
        native = await rest.post("/podium/v1/rerank", body())
        dialect = await rest.post("/v2/rerank", {"query": "q", "documents": ["a"]})
    for answer in (native, dialect):
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert answer.headers["x-request-id"] in answer.text
