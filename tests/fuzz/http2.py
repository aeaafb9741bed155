"""What a client of gRPC would never let out: frames and headers of HTTP/2 by hand, and gRPC's own prefix told wrongly.

Headers are written as literals, and what comes back is not decoded: bytes are looked for that may not be there, and the
server is asked afterwards whether it is well.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import struct
import time
from random import Random
from urllib.parse import urlsplit

from tests.fuzz import messages, protobufs
from tests.fuzz.doorways import CONTRACT
from tests.fuzz.findings import Findings
from tests.fuzz.run import IN_FLIGHT, Tally, pump
from tests.fuzz.victim import Victim

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
_END_STREAM, _END_HEADERS = 1, 4
_QUIET_S = 0.3
_WHOLE_S = 5.0
_BROKEN = (b"Unexpected <class", b"Exception iterating", b"Exception deserializing", b"Exception calling")
"""What gRPC says for itself where Python has raised."""
_TIMEOUTS = (
    b"8S",
    b"8S",
    b"8S",
    b"0n",
    b"-1S",
    b"1x",
    b"",
    b"99999999H",
    b"999999999S",
    b"1.5S",
    b"S",
    b"\xff",
    b"8S,8S",
)
_VALUES = (
    b"",
    b"\0",
    b"a\nb",
    b"\r\nx: y",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\x7f",
    b" a ",
    b"a" * 5_000,
    b"%",
    "🍕".encode(),
)
_NAMES = (
    b"X-Upper",
    b"",
    b":path",
    b":unknown",
    b"a b",
    b"a\0",
    b"x-request-id",
    b"traceparent",
    b"grpc-encoding",
    b"te",
)
_NAMES += (
    b"grpc-status",
    b"connection",
    b"content-length",
    b"transfer-encoding",
    b"x-bin",
    b"authorization",
    b"grpc-tags-bin",
)
_PATHS = (b"", b"/", b"*", b"/podium.v1.RerankService/", b"//", b"/podium.v1.RerankService/rerank", b"/" + b"a" * 9_000)
_PATHS += (b"/podium.v1.RerankService/Rerank?a=b", b"/\0", b"/\xff", b"/podium.admin.v1.AdminService/ListModels")


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """Return a header as a literal that is never indexed."""
    return b"\x10" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest, made = len(text) - 127, bytearray([127])
    while rest > 127:
        made.append(rest & 127 | 128)
        rest >>= 7
    made.append(rest)
    return bytes(made) + text


def connection(chance: Random, key: str) -> bytes:
    """Return all that one connection sends."""
    sent = [_PREFACE, frame(SETTINGS, 0, 0, b"")]
    for stream in range(1, 2 * chance.choice((1, 1, 2, 6)), 2):
        sent += _call(chance, key, stream)
    if chance.random() < 0.4:
        sent.insert(chance.randint(1, len(sent)), _odd_frame(chance))
    whole = b"".join(sent)
    if chance.random() < 0.15:
        whole = protobufs.damaged(whole[len(_PREFACE) :], chance)
        whole = whole if chance.random() < 0.2 else _PREFACE + whole
    return whole


def _call(chance: Random, key: str, stream: int) -> list[bytes]:
    method = chance.choice(CONTRACT)
    path = method.name.encode() if chance.random() < 0.8 else chance.choice(_PATHS)
    headers = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"localhost")]
    headers += [
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"grpc-timeout", chance.choice(_TIMEOUTS)),
    ]
    headers.append((b"authorization", b"Bearer " + key.encode()))
    for _ in range(chance.choice((0, 1, 2))):
        match chance.randrange(5):
            case 0:
                del headers[chance.randrange(len(headers))]
            case 1:
                headers.append(chance.choice(headers or [(b"a", b"b")]))
            case 2 if headers:
                place = chance.randrange(len(headers))
                headers[place] = (headers[place][0], chance.choice(_VALUES))
            case 3:
                chance.shuffle(headers)
            case _:
                headers.append((chance.choice(_NAMES), chance.choice(_VALUES)))
    block = b"".join(literal(name, value) for name, value in headers)
    flags = _END_HEADERS
    made = [frame(HEADERS, flags, stream, block)]
    if chance.random() < 0.1:
        made = [frame(HEADERS, 0, stream, block[:20])]
        made += [frame(CONTINUATION, 0, stream, b"")] * chance.choice((0, 3, 200))
        made.append(frame(CONTINUATION, _END_HEADERS, stream, block[20:]))
    data = _prefixed(chance, chance.choice(messages.good(method)))
    return [*made, frame(DATA, chance.choice((_END_STREAM,) * 5 + (0,)), stream, data[:16_000])]


def _prefixed(chance: Random, message: bytes) -> bytes:
    match chance.randrange(9):
        case 0:
            return b"\1" + struct.pack(">I", len(message)) + message
        case 1:
            packed = gzip.compress(message)
            return b"\1" + struct.pack(">I", len(packed)) + packed
        case 2:
            return b"\0" + struct.pack(">I", chance.choice((0, 1, len(message) + 9, 2**31, 2**32 - 1))) + message
        case 3:
            return chance.choice((b"", b"\0", b"\0\0\0", b"\xff" * 5, message))
        case 4:
            return (b"\0" + struct.pack(">I", len(message)) + message) * chance.choice((2, 5))
        case _:
            return b"\0" + struct.pack(">I", len(message)) + message


def _odd_frame(chance: Random) -> bytes:
    stream = chance.choice((0, 1, 2, 3, 2**31 - 1, 2**32 - 1))
    kind = chance.choice((*range(10), 11, 255))
    made = frame(kind, chance.randrange(256), stream, chance.randbytes(chance.choice((0, 4, 5, 6, 8, 9, 100))))
    if chance.random() < 0.2:
        made = chance.choice((b"\xff\xff\xff", b"\0\0\0")) + made[3:]
    return made * chance.choice((1, 1, 1, 20))


async def phase(numbers: range, seed: int, victim: Victim, findings: Findings) -> Tally:
    """Send connections by hand."""
    tally, began, before = Tally("http2"), time.monotonic(), findings.count
    at = urlsplit(f"//{victim.address}")

    async def send(data: bytes) -> tuple[str, str]:
        came = b""
        try:
            reader, writer = await asyncio.open_connection(at.hostname, at.port)
        except OSError as error:
            return "NONE", f"cannot connect: {error}"
        try:
            writer.write(data)
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(_WHOLE_S):
                    while part := await asyncio.wait_for(reader.read(1 << 16), _QUIET_S):
                        came += part
        finally:
            writer.close()
        broken = next((f"answers {word.decode()!r}" for word in _BROKEN if word in came), "")
        code = "status" if b"grpc-status" in came else "frames" if came else "closed"
        return code, victim.secrets.leak(came, data) or broken

    async def work(place: int) -> None:
        chance = Random(f"http2/{seed}/{numbers[place]}")
        key = victim.keys.said(chance.choice(("{acme}", "{acme}", "{held}", "x")))
        sent = connection(chance, key)
        code, wrong = await send(sent)
        tally.inputs += 1
        tally.codes[code] += 1
        if wrong:

            async def breaks(data: bytes) -> bool:
                return bool((await send(data))[1])

            await findings.add("http2", seed, numbers[place], "", wrong, sent, breaks)

    await pump(len(numbers), work, in_flight=IN_FLIGHT)
    tally.seconds, tally.findings = time.monotonic() - began, findings.count - before
    return tally
