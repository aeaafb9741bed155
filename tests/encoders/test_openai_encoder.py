from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_server.backends.chat.tokens import BYTES_PER_TOKEN
from podium_server.backends.encoders.openai import OpenAIEncoder, Patience, _Fault, read_embeddings
from podium_server.errors import (
    BackendDown,
    BackendRefused,
    FailedPrecondition,
    Overloaded,
    PodiumError,
    UnreadableReply,
)

Reply = tuple[int, dict[str, str], bytes]


def vector_of(text: str) -> list[float]:
    return [float(len(text)), 1.0, float(sum(map(ord, text)) % 13)]


def good(request: dict[str, Any]) -> Reply:
    data = [{"object": "embedding", "index": i, "embedding": vector_of(t)} for i, t in enumerate(request["input"])]
    body = {"object": "list", "data": data[::-1], "model": "m", "usage": {"prompt_tokens": 7, "total_tokens": 7}}
    return 200, {}, json.dumps(body).encode()


@dataclass
class Endpoint:
    """Answers as the script says, and then well."""

    url: str = ""
    script: list[Callable[[dict[str, Any]], Reply]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    state = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with state.lock:
                state.requests.append(request)
                answer = state.script.pop(0) if state.script else good
            status, headers, body = answer(request)
            if status == 0:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in {
                "content-type": "application/json",
                "content-length": str(len(body)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def says(status: int, body: object = None, headers: dict[str, str] | None = None) -> Callable[[dict[str, Any]], Reply]:
    raw = body if isinstance(body, bytes) else json.dumps(body or {"error": {"message": f"no: {status}"}}).encode()
    return lambda _: (status, headers or {}, raw)


def encoder(endpoint: Endpoint, waits: list[float] | None = None, **options: Any) -> OpenAIEncoder:
    sleeps = [] if waits is None else waits
    return OpenAIEncoder("m", name="remote", base_url=endpoint.url, sleep=sleeps.append, **options)


def test_vectors_come_in_the_order_of_the_texts(endpoint: Endpoint) -> None:
    texts = [f"text {'x' * i}" for i in range(10)]
    got = encoder(endpoint, batch=3, document_prefix="d: ").encode_documents(texts)
    want = np.array([vector_of("d: " + text) for text in texts], np.float32)
    np.testing.assert_allclose(got.vectors, want / np.linalg.norm(want, axis=1, keepdims=True), atol=1e-6)
    assert (got.calls, got.retries, got.prompt_tokens) == (4, 0, 28)
    assert sorted(len(request["input"]) for request in endpoint.requests) == [1, 3, 3, 3]
    assert all(request["encoding_format"] == "float" for request in endpoint.requests)
    assert "dimensions" not in endpoint.requests[0]


def test_batches_are_bounded_in_tokens_too(endpoint: Endpoint) -> None:
    encoder(endpoint, batch_tokens=50).encode_documents(["x" * (25 * BYTES_PER_TOKEN)] * 5)
    assert sorted(len(request["input"]) for request in endpoint.requests) == [1, 2, 2]


def test_long_empty_and_malformed_texts(endpoint: Endpoint) -> None:
    got = encoder(endpoint, max_tokens=8).encode_queries(["x" * 1000, "", "\ud800"])
    assert got.truncated == (True, False, False)
    assert endpoint.requests[0]["input"] == ["x" * (8 * BYTES_PER_TOKEN), " ", "\ufffd"]
    assert encoder(endpoint).encode_documents([]).vectors.shape[0] == 0


@pytest.mark.parametrize(
    ("headers", "least_s", "most_s"),
    [
        ({"retry-after": "3"}, 3, 3.5),
        ({"retry-after-ms": "1500"}, 1.5, 2.0),
        ({"retry-after": formatdate(32503680000, usegmt=True)}, None, None),
        ({}, 0, 0.5),
    ],
)
def test_429_waits_as_long_as_it_is_asked_to(
    endpoint: Endpoint, headers: dict[str, str], least_s: float | None, most_s: float | None
) -> None:
    endpoint.script = [says(429, headers=headers)]
    waits: list[float] = []
    one = encoder(endpoint, waits)
    if least_s is None or most_s is None:
        with pytest.raises(Overloaded) as caught:
            one.encode_queries(["a"])
        assert caught.value.retry_after_s > 1e6
        assert waits == []
        return
    got = one.encode_queries(["a"])
    assert (got.calls, got.retries) == (2, 1)
    assert least_s <= waits[0] <= most_s


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (says(500), BackendDown),
        (says(503, b"<html><title>Bad gateway</title>"), BackendDown),
        (says(0), BackendDown),
        (says(429), Overloaded),
        (says(200, b'{"data": ['), UnreadableReply),
        (says(200, b"not json at all"), UnreadableReply),
        (says(200, {"data": []}), UnreadableReply),
        (says(200, {"data": [{"index": 0, "embedding": [1, "x"]}]}), UnreadableReply),
        (says(200, b'{"data": [{"index": 0, "embedding": [NaN, 1]}]}'), UnreadableReply),
    ],
)
def test_what_fails_for_good_is_named_after_the_last_attempt(
    endpoint: Endpoint, answer: Callable[[dict[str, Any]], Reply], error: type[PodiumError]
) -> None:
    endpoint.script = [answer] * 3
    waits: list[float] = []
    with pytest.raises(error, match=r"remote.*after 3 of at most 3 attempts") as caught:
        encoder(endpoint, waits, patience=Patience(attempts_max=3)).encode_queries(["a"])
    assert caught.value.metadata["attempts"] == "3"
    assert len(waits) == 2
    endpoint.script = [answer]
    assert encoder(endpoint).encode_queries(["a"]).retries == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_is_not_asked_twice(endpoint: Endpoint, status: int) -> None:
    endpoint.script = [says(status)] * 2
    with pytest.raises(BackendRefused, match=f"{status}: no"):
        encoder(endpoint).encode_queries(["a"])
    assert len(endpoint.requests) == 1


def test_one_bad_batch_fails_the_call(endpoint: Endpoint) -> None:
    endpoint.script = [says(400)]
    with pytest.raises(BackendRefused):
        encoder(endpoint, batch=1).encode_documents(["a", "b", "c"])


def test_nobody_listens() -> None:
    waits: list[float] = []
    with pytest.raises(BackendDown, match="cannot be reached"):
        OpenAIEncoder("m", base_url="http://127.0.0.1:9/v1", sleep=waits.append).encode_queries(["a"])
    assert len(waits) == 3


def test_the_length_of_a_vector_is_learnt_once(endpoint: Endpoint) -> None:
    one = encoder(endpoint)
    assert (one.dim, one.dim) == (3, 3)
    assert len(endpoint.requests) == 1
    assert encoder(endpoint, dimensions=256).dim == 256
    assert len(endpoint.requests) == 1
    with pytest.raises(UnreadableReply, match=r"\[3, 256\]"):
        encoder(endpoint, dimensions=256).encode_queries(["a"])
    assert endpoint.requests[-1]["dimensions"] == 256
    assert one.revision == encoder(endpoint).revision != encoder(endpoint, query_prefix="q").revision


def test_token_vectors_are_refused(endpoint: Endpoint) -> None:
    with pytest.raises(FailedPrecondition, match="no token vectors"):
        encoder(endpoint).encode_documents(["a"], token_vectors=True)
    encoder(endpoint).close()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["data", "index", "embedding", "usage", "prompt_tokens"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(json_values.map(lambda v: json.dumps(v).encode()) | st.binary(max_size=30), st.integers(0, 3))
def test_any_body_is_read_or_refused(raw: bytes, count: int) -> None:
    with suppress(_Fault):
        reply = read_embeddings(raw, count)
        assert len(reply.vectors) == count
        assert np.isfinite(reply.vectors).all()
