"""Bytes of a request into JSON. Everything here is bounded: size, expansion, time, depth, and what all hold together.

JSON is read strictly: UTF-8, no NaN and no infinities, no key twice in an object. Halves of a surrogate pair, which
JavaScript makes when it cuts a string within an emoji, become U+FFFD, and are counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request

from podium_server.errors import InvalidRequest
from podium_server.rest.faults import HttpError

_JSON_TYPE = re.compile(r"(?:application|text)/(?:[\w.!#$&^-]+\+)?json", re.IGNORECASE)
_NDJSON_TYPE = re.compile(r"application/(?:x-)?(?:ndjson|jsonl|jsonlines|json-seq)", re.IGNORECASE)
# A body of 100 MB in gzip is 100 kB; it is refused once it has grown past the limit, not when it has grown.
_INFLATED_STEP = 64 * 1024
_DISCARD_S = 2.0
_GZIP_WINDOW = 16 + zlib.MAX_WBITS


@dataclass(slots=True)
class Bodies:
    """Reads bodies of requests.

    Args:
        bytes_max: of one body, before and after it is unpacked.
        held_max: of all bodies that are being read or answered.
        timeout_s: for one body to come in.

    """

    bytes_max: int
    held_max: int
    timeout_s: float
    held: int = 0

    async def read(self, request: Request) -> Held:
        """Return the bytes of a body, unpacked. They count as held until they are let go.

        Raises:
            HttpError: 408, 413, 415 or 503.
            ClientDisconnect: the client went away.

        """
        held = Held(self)
        parts: list[bytes] = []
        stream = request.stream()
        try:
            async with asyncio.timeout(self.timeout_s):
                _check_type(request, _JSON_TYPE)
                packed = _is_gzip(request)
                self._check_length(request)
                async for part in self._unpacked(stream, packed=packed):
                    held.grow(len(part))
                    parts.append(part)
        except HttpError:
            held.let_go()
            await self._discard(stream)
            raise
        except TimeoutError:
            held.let_go()
            # What is still on its way would be taken for the next request.
            message = f"the body did not come within {self.timeout_s:g} s (rest.body_timeout_s)"
            raise HttpError(408, message, headers={"connection": "close"}) from None
        except BaseException:
            held.let_go()
            raise
        held.data = b"".join(parts)
        return held

    async def lines(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the lines of a body as they come, none longer than `bytes_max`; a JSON array is a body of one line.

        Raises:
            HttpError: 408, 413 or 415.

        """
        _check_type(request, _NDJSON_TYPE, _JSON_TYPE)
        begun = bytearray()
        parts = self._unpacked(request.stream(), packed=_is_gzip(request), whole=False)
        while True:
            try:
                async with asyncio.timeout(self.timeout_s):
                    part = await anext(parts, None)
            except TimeoutError:
                message = f"nothing came for {self.timeout_s:g} s (rest.body_timeout_s)"
                raise HttpError(408, message, headers={"connection": "close"}) from None
            if part is None:
                break
            *ended, rest = part.split(b"\n")
            for line in ended:
                begun += line
                if begun.strip():
                    yield bytes(begun)
                begun.clear()
            begun += rest
            if len(begun) > self.bytes_max:
                raise self._too_large()
        if begun.strip():
            yield bytes(begun)

    async def _discard(self, stream: AsyncIterator[bytes]) -> None:
        """Read on, for a moment: a client that is cut off while it sends never sees the answer."""
        came = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_S):
                async for part in stream:
                    came += len(part)
                    if came > self.bytes_max:
                        return

    def _check_length(self, request: Request) -> None:
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self.bytes_max:
            raise self._too_large()

    async def _unpacked(self, parts: AsyncIterator[bytes], *, packed: bool, whole: bool = True) -> AsyncIterator[bytes]:
        inflater = zlib.decompressobj(_GZIP_WINDOW) if packed else None
        came = 0
        async for part in parts:
            for piece in [part] if inflater is None else _inflated(inflater, part):
                came += len(piece)
                if whole and came > self.bytes_max:
                    raise self._too_large()
                if piece:
                    yield piece
        if inflater is not None and not inflater.eof:
            raise HttpError(400, "the body ends before its gzip stream does")

    def _too_large(self) -> HttpError:
        message = f"the body has more than {self.bytes_max:,} bytes (limits.message_bytes)"
        return HttpError(413, message, headers={"connection": "close"})


@dataclass(slots=True)
class Held:
    """Bytes of a body, and their part of what all bodies hold."""

    bodies: Bodies
    data: bytes = b""
    size: int = 0

    def grow(self, more: int) -> None:
        """Take a place for more bytes.

        Raises:
            HttpError: all bodies together hold too much.

        """
        if self.bodies.held + more > self.bodies.held_max:
            message = "the server holds as many bodies of requests as it may (rest.bodies_bytes); try again"
            raise HttpError(503, message, headers={"connection": "close"})
        self.bodies.held += more
        self.size += more

    def let_go(self) -> None:
        """Give the place back."""
        self.bodies.held -= self.size
        self.size = 0


@dataclass(frozen=True, slots=True)
class Json:
    """A body that was read.

    Args:
        value: as `json` has it.
        mended: how many strings had lone surrogates, which were replaced.

    """

    value: Any
    mended: int = 0


def parse(data: bytes, *, what: str = "body") -> Json:
    """Read JSON, strictly.

    Raises:
        InvalidRequest: with the place of the mistake.

    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(what, f"is no UTF-8: {error.reason} at byte {error.start}") from None
    try:
        value = _DECODER.decode(text)
        if not _ESCAPED_SURROGATE.search(text):
            return Json(value)
        mending = _Mending()
        return Json(mending.mend(value), mending.count)
    except json.JSONDecodeError as error:
        raise InvalidRequest(what, f"is no JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise InvalidRequest(what, "is nested too deeply") from None
    except ValueError as error:
        # A number of thousands of digits, NaN, a key that is there twice.
        raise InvalidRequest(what, f"is no JSON: {str(error)[:200]}") from None


# Only an escape can bring one: decoded UTF-8 has none.
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class _Mending:
    """Replaces lone surrogates in every string of a value."""

    def __init__(self) -> None:
        self.count = 0

    def mend(self, value: Any) -> Any:
        match value:
            case str():
                try:
                    value.encode()
                except UnicodeEncodeError:
                    self.count += 1
                    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
                return value
            case dict():
                return {self.mend(key): self.mend(entry) for key, entry in value.items()}
            case list():
                return [self.mend(entry) for entry in value]
            case _:
                return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _once_each(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:64]!r} is there twice")
    return made


_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_once_each)


def _check_type(request: Request, *kinds: re.Pattern[str]) -> None:
    given = request.headers.get("content-type", "")
    kind, _, parameters = given.partition(";")
    if given and not any(pattern.fullmatch(kind.strip()) for pattern in kinds):
        raise HttpError(415, f"content-type is {kind.strip()[:64]!r}; send application/json")
    charset = re.search(r"charset\s*=\s*\"?([\w-]+)", parameters, re.IGNORECASE)
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise HttpError(415, f"the charset is {charset[1][:32]!r}; send UTF-8")


def _is_gzip(request: Request) -> bool:
    given = request.headers.get("content-encoding", "identity").strip().lower()
    if given in ("identity", ""):
        return False
    if given in ("gzip", "x-gzip"):
        return True
    message = f"content-encoding is {given[:32]!r}; send gzip or none"
    raise HttpError(415, message, headers={"accept-encoding": "gzip"})


def _inflated(inflater: zlib._Decompress, part: bytes) -> Iterator[bytes]:
    """Yield what a part of a gzip stream holds, in small steps, so that a bomb is noticed while it is small."""
    left = part
    more = True
    try:
        while more:
            piece = inflater.decompress(left, _INFLATED_STEP)
            yield piece
            left = inflater.unconsumed_tail
            # A full step may have left something inside, even where all of the part was taken.
            more = bool(left) or len(piece) == _INFLATED_STEP
            if inflater.unused_data:
                raise HttpError(400, "the body goes on behind its gzip stream; send one member")
    except zlib.error as error:
        raise HttpError(400, f"the body is no gzip: {error}") from None


__all__ = ["Bodies", "ClientDisconnect", "Held", "Json", "parse"]
