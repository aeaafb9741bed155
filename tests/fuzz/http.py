"""Connections that send whatever bytes they are given, and read what HTTP answers, strictly."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from urllib.parse import urlsplit

_ANSWER_S = 25.0
"""For one answer: beyond every deadline that an input has."""
_SILENT_S = 6.0
"""For a connection whose client has said all: beyond the server's own patience with heads and bodies."""
_BYTES_MAX = 32 << 20


class Unreadable(Exception):
    """What came is no HTTP."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    head: bytes

    def header(self, name: str) -> str:
        """Return a header; empty for none."""
        return next((value for key, value in self.headers if key == name), "")


@dataclass
class Connection:
    """Sends requests one after the other, over one connection for as long as the server keeps it.

    Args:
        url: of the server.

    """

    url: str
    _reader: asyncio.StreamReader | None = None
    _writer: asyncio.StreamWriter | None = None

    async def ask(self, request: bytes) -> Answer:
        """Return the answer to a request in good form.

        Raises:
            Unreadable: what came is no HTTP, or nothing came.

        """
        for again in (True, False):
            fresh = self._writer is None
            try:
                reader, writer = await self._open()
                writer.write(request)
                async with asyncio.timeout(_ANSWER_S):
                    answer = await read(reader, bodiless=request.startswith(b"HEAD"))
            except TimeoutError:
                self.close()
                raise Unreadable(f"no answer within {_ANSWER_S:g} s") from None
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                self.close()
                # An idle connection that the server closed in this moment.
                if again and not fresh:
                    continue
                raise Unreadable(f"the connection ended: {type(error).__name__}") from None
            if answer.header("connection") == "close":
                self.close()
            return answer
        raise AssertionError("the second round returns or raises")

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is None or self._writer is None:
            at = urlsplit(self.url)
            self._reader, self._writer = await asyncio.open_connection(at.hostname, at.port)
        return self._reader, self._writer

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


async def converse(url: str, sent: bytes) -> tuple[list[Answer], bytes]:
    """Send bytes over a connection of their own; return the answers that came until it was closed, and all bytes.

    Raises:
        Unreadable: what came is no HTTP.

    """
    at = urlsplit(url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    came = b""
    try:
        with contextlib.suppress(ConnectionError, TimeoutError):
            writer.write(sent)
            if writer.can_write_eof():
                writer.write_eof()
            async with asyncio.timeout(_SILENT_S):
                while part := await reader.read(1 << 16):
                    came += part
    finally:
        writer.close()
    answers, again = [], asyncio.StreamReader()
    again.feed_data(came)
    again.feed_eof()
    with contextlib.suppress(asyncio.IncompleteReadError):
        while not again.at_eof():
            answers.append(await read(again, bodiless=sent.startswith(b"HEAD")))
    return answers, came


async def read(reader: asyncio.StreamReader, *, bodiless: bool = False) -> Answer:
    """Read one answer.

    Raises:
        Unreadable: it is none.
        asyncio.IncompleteReadError: it ends too soon.

    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head[:-4].decode("latin-1").split("\r\n")
        version, status, *_ = lines[0].split(" ", 2)
        headers = tuple((key.lower(), value.strip()) for key, value in (line.split(":", 1) for line in lines[1:]))
        if version != "HTTP/1.1" or any(letter < " " or letter == "\x7f" for line in lines for letter in line):
            raise Unreadable(f"a bad head: {head[:200]!r}")
        answer = Answer(int(status), headers, b"", head)
        if answer.status == 100:
            return await read(reader, bodiless=bodiless)
        if bodiless or answer.status in (204, 304):
            return answer
        if answer.header("transfer-encoding") == "chunked":
            body = await _chunks(reader)
        elif answer.header("content-length"):
            body = await reader.readexactly(int(answer.header("content-length")))
        else:
            body = await reader.read(_BYTES_MAX)
    except (ValueError, asyncio.LimitOverrunError) as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from None
    return Answer(answer.status, headers, body, head)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return body
