"""Requests of HTTP: in good form with a damaged body or head, and in no form at all."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from random import Random

from tests.fuzz import bodies

GOOD_KEY = "authorization: Bearer {acme}"
_KEYS = (
    *(("",), ("authorization: Bearer {held}",), ("authorization: Bearer {small}",), ("x-api-key: {acme}",)),
    *(("authorization: Bearer {revoked}",), ("authorization: Bearer {expired}",), ("authorization: Bearer x",)),
    *((GOOD_KEY, "authorization: Bearer {small}"), ("authorization: bearer {acme}",), ("authorization:",)),
)
_HEADERS = (
    *(
        "content-type: text/plain",
        "content-type: application/json; charset=utf-16",
        "content-type: ",
        "content-type: x/y",
    ),
    *(
        "content-type: application/x-ndjson",
        'content-type: application/JSON;charset="utf-8"',
        "accept: text/event-stream",
    ),
    *("content-encoding: gzip", "content-encoding: br", "content-encoding: gzip, gzip", "accept-encoding: gzip"),
    *(
        "x-request-id: ",
        "x-request-id: a b",
        "x-request-id: " + "a" * 200,
        "x-request-id: \x7f\x80\xff",
        "traceparent: 00-x",
    ),
    *(
        "x-podium-timeout-ms: 0",
        "x-podium-timeout-ms: -1",
        "x-podium-timeout-ms: 1",
        "x-podium-timeout-ms: 999999999999",
    ),
    *(
        "x-podium-timeout-ms: nan",
        "request-timeout: 0.001",
        "request-timeout: 1e3",
        "expect: 100-continue",
        "range: bytes=0-1",
    ),
    *("upgrade: websocket\r\nconnection: upgrade", "connection: close", "cookie: a=b", "host: evil\r\nhost: other"),
    *("x-forwarded-for: 1.2.3.4", "x-forwarded-proto: https", "x-http-method-override: DELETE", "origin: null"),
    *("x-bomb: " + "b" * 8_000, "x-bomb: " + "b" * 40_000, "\r\n".join(f"k{i}: v" for i in range(300)), "a: b\r\n c"),
)
_VERBS = ("GET", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE", "BREW", "post", "CONNECT", "POST" * 20)
_TARGETS = (
    *(
        "/",
        "/docs",
        "/openapi.json",
        "/health",
        "/v1/models",
        "/nothing",
        "//rerank",
        "/rerank/",
        "/./rerank",
        "/../etc/passwd",
    ),
    *("/%00", "/%ff%fe", "/tei/%2e%2e/rerank", "/tei/{x}/rerank", "/tei/" + "a" * 3_000 + "/rerank", "/rerank?a=b&%zz"),
    *(
        "/podium/v1/",
        "/podium/v1/Rerank",
        "/podium/v1/rerank%20",
        "http://evil/rerank",
        "*",
        "/tei/" + "%F0%9F%8D%95" + "/info",
    ),
)


def written(verb: str, target: str, headers: Sequence[str], body: bytes) -> bytes:
    """Return a request in good form, but for what its parts bring."""
    lines = [
        f"{verb} {target} HTTP/1.1",
        "host: h",
        *(line for line in headers if line),
        f"content-length: {len(body)}",
    ]
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body


def with_body(chance: Random, operations: Sequence[tuple[str, str]]) -> tuple[str, str, bytes]:
    """Return verb, path and request: a path of the page with a body that is damaged, and sometimes its head."""
    verb, path = chance.choice(operations)
    kept = path
    if "{model}" in path:
        path = path.replace("{model}", chance.choice(("plain", "vectors", "none", "%00", "%2e%2e")))
    body = b"" if verb == "GET" else bodies.damaged(chance.choice(bodies.good(kept)), chance)
    headers = list(chance.choice(_KEYS)) if chance.random() < 0.06 else [GOOD_KEY]
    kind = "content-type: application/json"
    if path.endswith(("batchRerank", "upsertDocuments")) and chance.random() < 0.3:
        kind = "content-type: application/x-ndjson"
    headers.append(kind)
    if chance.random() < 0.15:
        headers.append(chance.choice(_HEADERS[:30]))
        headers = headers[1:] if headers[-1].startswith("content-type") else headers
    if "content-encoding: gzip" in headers and chance.random() < 0.8:
        body = gzip.compress(body, 1) if chance.random() < 0.6 else zlib.compress(body)
    return verb, kept, written(verb, path, headers, body)


def formless(chance: Random, operations: Sequence[tuple[str, str]]) -> bytes:
    """Return the bytes of a connection: requests with a wrong head, wrong lengths, bad chunks, several at once."""
    verb, path, good = with_body(chance, operations)
    head, _, body = good.partition(b"\r\n\r\n")
    plain = b"\r\n".join(line for line in head.split(b"\r\n") if not line.startswith(b"content-length"))
    match chance.randrange(12):
        case 0:
            lie = chance.choice((b"0", b"-1", b"+1", b"1e3", b"99999999999999999999", b"0x10", b" 5 ", b"5, 5", b"a"))
            return plain + b"\r\ncontent-length: " + lie + b"\r\n\r\n" + body
        case 1:
            return plain + b"\r\ntransfer-encoding: chunked\r\n\r\n" + _chunks(body, chance)
        case 2:
            both = b"\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n"
            return plain + both + _chunks(body, chance)
        case 3:
            return head + b"\r\n" + chance.choice(_HEADERS).encode("latin-1") + b"\r\n\r\n" + body
        case 4:
            return good * chance.choice((2, 3, 20))
        case 5:
            target = chance.choice(_TARGETS).encode("latin-1")
            return head.replace(path.encode(), target, 1) + b"\r\n\r\n" + body
        case 6:
            return head.replace(verb.encode(), chance.choice(_VERBS).encode(), 1) + b"\r\n\r\n" + body
        case 7:
            version = chance.choice(
                (b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9.9", b"http/1.1", b"", b"HTTP/1.1 x")
            )
            return good.replace(b"HTTP/1.1", version, 1)
        case 8:
            return good.replace(
                b"\r\n", chance.choice((b"\n", b"\r", b"\r\n\r\n", b"\0\r\n", b" \r\n")), chance.choice((1, 2, 9))
            )
        case 9:
            place = chance.randint(0, len(head))
            return head[:place] + chance.randbytes(chance.choice((1, 2, 50))) + good[place:]
        case 10:
            return good[: chance.randint(0, len(good))]
        case _:
            tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
            return chance.choice((b"", b"\r\n\r\n", tls, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", chance.randbytes(200)))


def _chunks(body: bytes, chance: Random) -> bytes:
    size = b"%x" % len(body)
    match chance.randrange(7):
        case 0:
            return size + b"\r\n" + body + b"\r\n0\r\n\r\n"
        case 1:
            return b"ffffffffffffffff\r\n" + body
        case 2:
            return size + b";ext=" + b"a" * chance.choice((1, 50_000)) + b"\r\n" + body + b"\r\n0\r\n\r\n"
        case 3:
            return b"-1\r\n" + body
        case 4:
            return b"".join(b"1\r\n" + body[i : i + 1] + b"\r\n" for i in range(len(body))) + b"0\r\n\r\n"
        case 5:
            return size + b"\r\n" + body + b"\r\n0\r\ntrailer: x\r\ncontent-length: 3\r\n\r\n"
        case _:
            return size + b"\n" + body + b"\n0\n\n"
