"""What is not a request of a dialect: broken HTTP, hostile bodies, clients that go, deadlines, guards."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from podium_server.errors import ConfigInvalid, Overloaded, QuotaExceeded, Unauthenticated
from podium_server.limits import Limits
from podium_server.rest.server import RestServer
from podium_server.transport.door import Call
from podium_strategies.oracle import Oracle
from tests.ranking.scripted import ScriptedJudge
from tests.rest.serving import CAPITALS, configured, resting
from tests.wire.serving import standing, until

JSON = {"content-type": "application/json"}
GOOD = {"query": "q", "documents": CAPITALS}
# On each of these, whatever comes.
PATHS = [
    "/v2/rerank",
    "/rerank",
    "/jina/v1/rerank",
    "/tei/rerank",
    "/score",
    "/podium/v1/rerank",
    "/podium/v1/streamRerank",
]

HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"nonsense",
    "half": b'{"query": "q", "documents": ["a"',
    "a list": b"[]",
    "a string": b'"q"',
    "null": b"null",
    "NaN": b'{"query": "q", "documents": ["a"], "top_n": NaN}',
    "infinity": b'{"query": "q", "documents": ["a"], "top_n": -Infinity}',
    "huge number": b'{"query": "q", "documents": ["a"], "top_n": ' + b"9" * 10_000 + b"}",
    "huge exponent": b'{"query": "q", "documents": ["a"], "top_n": 1e400}',
    "twice": b'{"query": "q", "query": "r", "documents": ["a"]}',
    "not UTF-8": b'{"query": "\xff"}',
    "UTF-16": '{"query": "q"}'.encode("utf-16"),
    "deep": b'{"query": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep, but not too deep for JSON": b'{"query": "\\ud800", "documents": ' + b"[" * 400 + b"]" * 400 + b"}",
    "a lone surrogate for a key": b'{"\\ud800": 1, "query": "q", "texts": [], "documents": []}',
    "wrong types": b'{"query": {"a": 1}, "documents": 7, "texts": {}, "model": [], "text_1": 1, "text_2": null}',
    "NUL": b'{"query": "\\u0000", "documents": ["\\u0000"], "model": "\\u0000"}',
}


@pytest.mark.parametrize("path", PATHS)
async def test_a_body_that_is_none_is_refused_and_never_our_fault(path: str) -> None:
    async with resting() as rest:
        for name, content in HOSTILE.items():
            answer = await rest.http.post(path, content=content, headers=JSON)
            assert 400 <= answer.status_code < 500, (name, answer.text)
            assert answer.headers["content-type"] == "application/json"
            assert answer.json()
        after = await rest.post("/v2/rerank", GOOD)
    assert after.status_code == 200


async def test_half_a_surrogate_is_mended_and_told_of() -> None:
    body = b'{"query": "q", "documents": ["cut \\ud83d", "whole \\ud83c\\udf55"], "return_documents": true}'
    async with resting() as rest:
        answer = await rest.http.post("/cohere/v2/rerank", content=body, headers=JSON)
        native = await rest.http.post(
            "/podium/v1/rerank", content=b'{"query": "q", "documents": [{"text": "\\ud83d"}]}', headers=JSON
        )
    assert answer.status_code == native.status_code == 200
    assert answer.headers["x-podium-warnings"] == "text_cleaned"
    assert [each["document"]["text"] for each in answer.json()["results"]] == ["cut �", "whole 🍕"]


async def test_content_types_and_encodings() -> None:
    packed = gzip.compress(json.dumps(GOOD).encode())
    async with resting() as rest:

        async def sent(content: bytes, **headers: str) -> int:
            given = {key.replace("_", "-"): value for key, value in headers.items()}
            return (await rest.http.post("/v2/rerank", content=content, headers=given)).status_code

        plain = json.dumps(GOOD).encode()
        assert await sent(plain, content_type="application/json; charset=utf-8") == 200
        assert await sent(plain, content_type="application/vnd.api+json") == 200
        assert await sent(plain) == 200
        assert await sent(plain, content_type="text/plain") == 415
        assert await sent(plain, content_type="application/json; charset=latin-1") == 415
        assert await sent(packed, content_type="application/json", content_encoding="gzip") == 200
        assert await sent(packed[:-9], content_type="application/json", content_encoding="gzip") == 400
        assert await sent(packed + b"more", content_type="application/json", content_encoding="gzip") == 400
        assert await sent(plain, content_type="application/json", content_encoding="gzip") == 400
        assert await sent(plain, content_type="application/json", content_encoding="br") == 415


async def test_bodies_are_bounded_packed_or_not() -> None:
    limits = Limits(message_bytes=64 * 1024)
    async with resting(standing(limits=limits)) as rest:
        long = json.dumps({"query": "q", "documents": ["a" * 70_000]}).encode()
        said = await rest.http.post("/v2/rerank", content=long, headers=JSON)

        async def chunks() -> AsyncIterator[bytes]:
            for place in range(0, len(long), 1000):
                yield long[place : place + 1000]

        unsaid = await rest.http.post("/v2/rerank", content=chunks(), headers=JSON)
        bomb = gzip.compress(b"[" + b" " * 50_000_000 + b"]")
        packed = await rest.http.post("/v2/rerank", content=bomb, headers={**JSON, "content-encoding": "gzip"})
        after = await rest.post("/v2/rerank", GOOD)
    assert said.status_code == unsaid.status_code == packed.status_code == 413
    assert "limits.message_bytes" in said.json()["message"]
    assert after.status_code == 200


async def test_all_bodies_together_are_bounded() -> None:
    judge = ScriptedJudge(Oracle.seeded(16, 1), delay_s=lambda _: 30.0)
    async with resting(standing(judge), bodies_bytes=64 * 1024) as rest:
        body = {"model": "points", "query": "q", "documents": ["a" * 60_000]}
        first = asyncio.create_task(rest.post("/v2/rerank", body))
        await until(lambda: bool(judge.asked))
        second = await rest.post("/v2/rerank", body)
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        await until(lambda: rest.server.door.running == 0)
        small = await rest.post("/v2/rerank", {**body, "model": "identity"})
    assert second.status_code == 503
    assert second.headers["retry-after"] == "1"
    assert small.status_code == 200


async def test_paths_and_methods_that_are_not_there() -> None:
    async with resting() as rest:
        nowhere = await rest.post("/v3/rerank", GOOD)
        got = await rest.http.get("/v2/rerank")
        head = await rest.http.head("/health")
        options = await rest.http.options("/v2/rerank")
        put = await rest.http.put("/podium/v1/rerank", json={})
    assert nowhere.status_code == 404
    assert nowhere.json()["detail"]
    assert {got.status_code, options.status_code, put.status_code} == {405}
    assert got.headers["allow"] == "POST"
    assert head.status_code == 200


async def test_broken_http_is_refused() -> None:
    async with resting(header_bytes=4096) as rest:
        assert b" 400 " in await rest.raw(b"nonsense\r\n\r\n")
        assert b" 400 " in await rest.raw(b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 10_000)
        assert b" 400 " in await rest.raw(b"POST /v2/rerank HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n")
        both = b"POST /v2/rerank HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 5\r\n\r\n{}"
        assert b" 400 " in await rest.raw(both)
        assert (await rest.post("/v2/rerank", GOOD)).status_code == 200


@pytest.mark.parametrize("head", ["GET /openapi.json", "GET /nothing", "GET /health", "POST /v2/rerank"])
async def test_a_body_that_breaks_off_into_nonsense_is_refused_once(
    head: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with resting() as rest:
        sent = f"{head} HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        for chunks in (b"-1\r\n{}", b"2\r\n{}\r\nx\r\n"):
            came = await rest.raw(sent.encode() + chunks)
            assert came.count(b"HTTP/1.1 ") == 1
            assert came.startswith(b"HTTP/1.1 400 ")
        assert (await rest.http.get("/health")).status_code == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_who_is_slow_is_cut_off() -> None:
    async with resting(header_timeout_s=0.2, body_timeout_s=0.2) as rest:
        assert await rest.raw(b"") == b""
        assert await rest.raw(b"POST /v2/rer") == b""
        answer = await rest.raw(
            b"POST /v2/rerank HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
        )
        assert b" 408 " in answer
        assert b"body_timeout_s" in answer
        assert (await rest.post("/v2/rerank", GOOD)).status_code == 200


async def test_connections_are_bounded() -> None:
    async with resting(connections=2) as rest:
        held = [await asyncio.open_connection(*rest.address) for _ in range(2)]
        reader, writer = await asyncio.open_connection(*rest.address)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        for _, each in held:
            each.close()
        await asyncio.sleep(0.05)
        assert (await rest.post("/v2/rerank", GOOD)).status_code == 200


@pytest.mark.parametrize("path", ["/v2/rerank", "/podium/v1/streamRerank"])
async def test_a_client_that_goes_ends_its_call_and_is_billed(path: str) -> None:
    judge = ScriptedJudge(Oracle.seeded(16, 1), delay_s=lambda _: 30.0)
    body: Any = {"model": "points", "query": "q", "documents": CAPITALS}
    if path.startswith("/podium"):
        body = {"request": {"query": "q", "pipeline": "points", "documents": [{"text": text} for text in CAPITALS]}}
    async with resting(standing(judge)) as rest:
        reader, writer = await asyncio.open_connection(*rest.address)
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        await until(lambda: len(judge.asked) == len(CAPITALS))
        writer.transport.abort()
        await until(lambda: judge.cancelled == len(CAPITALS))
        await until(lambda: rest.server.door.running == 0)
        del reader


async def test_the_deadline_of_a_header_gives_what_there_is() -> None:
    # The first questions are answered at once, and the last one never.
    judge = ScriptedJudge(Oracle.seeded(16, 1), delay_s=lambda number: 0.0 if number < 3 else 60.0)
    body = {"model": "points", "query": "q", "documents": CAPITALS}
    async with resting(standing(judge)) as rest:
        answer = await rest.post("/v2/rerank", body, headers={"x-podium-timeout-ms": "300"})
        nonsense = [
            (await rest.post("/v2/rerank", GOOD, headers={key: value})).status_code
            for key in ("x-podium-timeout-ms", "request-timeout")
            for value in ("-1", "0", "nan", "1e9", "soon", "")
        ]
    assert answer.status_code == 200
    assert answer.headers["x-podium-completion"] == "partial_deadline"
    assert answer.headers["x-podium-partial-reason"] == "deadline_exceeded"
    assert set(nonsense) == {400}


async def test_a_deadline_that_nothing_kept_is_504() -> None:
    async with resting() as rest:

        async def stuck(*_: Any) -> None:
            await asyncio.sleep(60)

        object.__setattr__(rest.server.door.methods["/podium.v1.RerankService/Rerank"], "answer", stuck)
        answer = await rest.post("/jina/v1/rerank", GOOD, headers={"request-timeout": "0.1"})
    assert answer.status_code == 504
    assert "deadline" in answer.json()["detail"]


async def test_guards_stand_around_rest_too() -> None:
    seen: list[Call] = []
    refusal: list[Exception] = []

    @asynccontextmanager
    async def guard(call: Call) -> AsyncIterator[None]:
        seen.append(call)
        if refusal:
            raise refusal[0]
        yield

    async with resting(guards=[guard]) as rest:
        headers = {"authorization": "Bearer k", "X-API-Key": "k2", "x-request-id": "mine", "traceparent": "nonsense"}
        answer = await rest.post("/cohere/v2/rerank", GOOD, headers=headers)
        refusal.append(Unauthenticated("no key"))
        unknown = await rest.post("/cohere/v2/rerank", GOOD)
        # Whoever may not enter is not told what is wrong with the body.
        broken = await rest.http.post("/cohere/v2/rerank", content=b"{", headers=JSON)
        models = await rest.http.get("/v1/models")
        refusal[0] = Overloaded("full", retry_after_s=2.2)
        full = await rest.post("/jina/v1/rerank", GOOD)
        refusal[0] = QuotaExceeded("spent")
        spent = await rest.post("/voyage/v1/rerank", GOOD)
    call = seen[0]
    assert answer.headers["x-request-id"] == call.request_id == "mine"
    assert (call.metadata["authorization"], call.metadata["x-api-key"]) == ("Bearer k", "k2")
    assert (call.via, call.method, call.traceparent) == ("cohere-v2", "/podium.v1.RerankService/Rerank", "")
    assert call.peer.startswith("ipv4:127.0.0.1:")
    assert {unknown.status_code, broken.status_code, models.status_code} == {401}
    assert unknown.headers["www-authenticate"] == "Bearer"
    assert (full.status_code, full.headers["retry-after"]) == (429, "3")
    assert spent.status_code == 429


async def test_a_drain_ends_what_runs_and_refuses_what_comes() -> None:
    judge = ScriptedJudge(Oracle.seeded(16, 1), delay_s=lambda _: 0.3)
    async with resting(standing(judge)) as rest:
        running = asyncio.create_task(rest.post("/v2/rerank", {**GOOD, "model": "points"}))
        await until(lambda: bool(judge.asked))
        draining = asyncio.create_task(rest.server.drain(10))
        await asyncio.sleep(0)
        refused = await rest.post("/v2/rerank", GOOD)
        await draining
        done = await running
    assert refused.status_code == 503
    assert done.status_code == 200


async def test_a_stop_tells_who_is_still_inside() -> None:
    judge = ScriptedJudge(Oracle.seeded(16, 1), delay_s=lambda _: 60.0)
    async with resting(standing(judge)) as rest:
        content = json.dumps({**GOOD, "model": "points"}).encode()
        head = f"POST /v2/rerank HTTP/1.1\r\nhost: a\r\ncontent-length: {len(content)}\r\n\r\n"
        running = asyncio.create_task(rest.raw(head.encode() + content))
        await until(lambda: bool(judge.asked))
    assert b" 503 " in await running
    assert judge.cancelled


async def test_two_servers_cannot_have_one_port() -> None:
    async with resting() as rest:
        podium = configured(standing(), port=rest.address[1])
        with pytest.raises(Exception, match=r"rest\.port"):
            await RestServer(podium.config.rest).start(rest.server)


async def test_two_servers_that_begin_at_once_cannot_have_one_port() -> None:
    """Both can be bound to it, and one only can listen."""
    async with resting() as rest:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        pair = [RestServer(configured(standing(), port=port).config.rest) for _ in range(2)]
        async with asyncio.timeout(10):
            told = await asyncio.gather(*(one.start(rest.server) for one in pair), return_exceptions=True)
        for one in pair:
            await one.stop()
    assert [type(each) for each in told] == [str, ConfigInvalid]
    assert "rest.port" in str(told[1])


async def test_requests_can_follow_one_another_on_a_connection() -> None:
    async with resting() as rest:
        content = json.dumps(GOOD).encode()
        head = f"POST /v2/rerank HTTP/1.1\r\nhost: a\r\ncontent-length: {len(content)}\r\n"
        one = head.encode() + b"\r\n" + content
        last = head.encode() + b"connection: close\r\n\r\n" + content
        answer = await rest.raw(one + one + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 3
