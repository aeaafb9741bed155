"""The lists that a job reads: one JSON object a line, plain or gzipped. A line that cannot be used is a value, too."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

from podium_server.validate import GivenDocument

GZIP_MAGIC = b"\x1f\x8b"
STDIN = "-"

# Ten thousand candidates of 6 KB. Beyond it a line is skipped, so that a file without line ends cannot fill the memory.
LINE_BYTES_MAX = 64 << 20


@dataclass(frozen=True, slots=True)
class CandidateList:
    """One query with its candidates, in first-stage order.

    Ids are kept as the file has them, strings or numbers, so that the output can be joined with the input.

    Args:
        line: of the file, counted from 1.
        qid: as given.
        query: its text, not validated yet.
        docids: as given, by place.
        documents: by place; their ids are those of `docids`, as text.

    """

    line: int
    qid: str | int
    query: str
    docids: tuple[str | int, ...]
    documents: tuple[GivenDocument, ...]


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no list. `qid` is what it is called, where that much could be read."""

    line: int
    message: str
    qid: str | int | None = None


Line: TypeAlias = CandidateList | BadLine


class _Mistake(Exception):
    """What is wrong with a line, as a sentence."""


@dataclass(slots=True)
class Source:
    """A file of lists under reading. Iterate it once; a reader in another thread may watch how far it is.

    Args:
        stream: of lines.
        raw: what `stream` is fed from; the same, unless it is compressed.
        size_bytes: of `raw`; None where nobody knows (a pipe).
        limit: lists at most.

    """

    stream: BinaryIO
    raw: BinaryIO
    size_bytes: int | None = None
    limit: int | None = None
    lists_read: int = field(init=False, default=0)
    _over: bool = field(init=False, default=False)

    @classmethod
    def opened(cls, path: str, *, limit: int | None = None) -> Source:
        """Open a file; `-` is standard input. Gzip is known by its first bytes, whatever the name says.

        Raises:
            OSError: it cannot be opened.

        """
        raw = sys.stdin.buffer if path == STDIN else Path(path).open("rb")  # noqa: SIM115  # read by a thread, to its end
        status = os.fstat(raw.fileno())
        size = status.st_size if stat.S_ISREG(status.st_mode) else None
        buffered = cast(io.BufferedReader, raw)
        packed = buffered.peek(len(GZIP_MAGIC))[: len(GZIP_MAGIC)] == GZIP_MAGIC
        stream = cast(BinaryIO, gzip.open(buffered) if packed else buffered)  # noqa: SIM115
        return cls(stream, cast(BinaryIO, buffered), size, limit)

    @property
    def share_read(self) -> float:
        """The part of the file that was read, from 0 to 1; 0 where nobody knows."""
        if self._over:
            return 1.0
        parts = [self.lists_read / self.limit] if self.limit else []
        if self.size_bytes:
            parts.append(self.raw.tell() / self.size_bytes)
        return min(1.0, max(parts, default=0.0))

    def __iter__(self) -> Iterator[Line]:
        """Yield the lists, and the lines that are none; empty lines are nothing.

        A file that breaks off in the middle (a gzip that was cut) ends with a bad line which says so.
        """
        number = 0
        try:
            while self.limit is None or self.lists_read < self.limit:
                raw = self.stream.readline(LINE_BYTES_MAX)
                if not raw:
                    break
                number += 1
                if not raw.strip():
                    continue
                self.lists_read += 1
                if len(raw) == LINE_BYTES_MAX and not raw.endswith(b"\n"):
                    _skip_line(self.stream)
                    yield BadLine(number, f"is longer than {LINE_BYTES_MAX:,} bytes; split the list")
                else:
                    yield parse_line(raw, number)
        except (OSError, EOFError, zlib.error) as error:
            yield BadLine(number + 1, f"the file cannot be read on: {error}")
        self._over = True


def _skip_line(stream: BinaryIO) -> None:
    while (part := stream.readline(1 << 20)) and not part.endswith(b"\n"):
        pass


def parse_line(raw: bytes, number: int) -> Line:
    """Return the list that a line holds, or what is wrong with it."""
    qid = None
    try:
        row = _parsed(raw)
        qid = _identity(row, "qid")
        query = row.get("query")
        if not isinstance(query, str):
            raise _Mistake(f"query: {_wrong(row, 'query', 'a string')}")
        candidates = row.get("candidates")
        if not isinstance(candidates, list):
            raise _Mistake(f"candidates: {_wrong(row, 'candidates', 'a list')}")
        docids = []
        documents = []
        for place, candidate in enumerate(candidates):
            docid, document = _candidate(candidate, f"candidates[{place}]")
            docids.append(docid)
            documents.append(document)
    except _Mistake as mistake:
        return BadLine(number, str(mistake), qid)
    return CandidateList(number, qid, query, tuple(docids), tuple(documents))


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        row = json.loads(raw)
    except UnicodeDecodeError as error:
        raise _Mistake(f"is no UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise _Mistake(f"is no JSON at column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise _Mistake("is JSON nested too deeply to be read") from error
    if not isinstance(row, dict):
        raise _Mistake(f'is {_kind(row)}; {{"qid", "query", "candidates"}} is needed')
    return row


def _candidate(given: Any, where: str) -> tuple[str | int, GivenDocument]:
    if not isinstance(given, dict):
        raise _Mistake(f'{where}: is {_kind(given)}; {{"docid", "text"}} is needed')
    docid = _identity(given, "docid", where)
    text = given.get("text")
    if not isinstance(text, str):
        raise _Mistake(f"{where}.text: {_wrong(given, 'text', 'a string')}")
    score = given.get("score")
    if score is not None and (not isinstance(score, int | float) or isinstance(score, bool)):
        raise _Mistake(f"{where}.score: {_wrong(given, 'score', 'a number')}")
    try:
        return docid, GivenDocument(str(docid), text, None if score is None else float(score))
    except OverflowError:
        raise _Mistake(f"{where}.score: is too large a number") from None


def _identity(row: dict[str, Any], key: str, where: str = "") -> str | int:
    value = row.get(key)
    path = f"{where}.{key}" if where else key
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _Mistake(f"{path}: {_wrong(row, key, 'a string')}")
    if value == "":
        raise _Mistake(f"{path}: is empty; an id is needed")
    return value


def _wrong(row: dict[str, Any], key: str, wanted: str) -> str:
    return f"is {_kind(row[key])}; {wanted} is needed" if key in row else "is needed and missing"


def _kind(value: Any) -> str:
    """Return what a JSON value is, in words; a short one is shown."""
    match value:
        case None | bool() | int() | float():
            return json.dumps(value)
        case str():
            return "a string"
        case list():
            return "a list"
        case _:
            return "an object"
