"""The lists that a job reads: JSON lines, plain or gzipped, or Parquet. A line that cannot be used is a value, too."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeAlias, cast

from podium_server.errors import FailedPrecondition
from podium_server.jobs.json_lines import (
    BROKEN_OFF,
    LINE_BYTES_MAX,
    PARQUET_MAGIC,
    TOO_LONG,
    bare,
    begins_with,
    is_cut,
    unpacked,
)
from podium_server.validate import GivenDocument

STDIN = "-"


class CandidateList(NamedTuple):
    """One query with its candidates, in first-stage order.

    Ids are kept as the file has them, strings or numbers, so that the output can be joined with the input.

    Args:
        line: of the file, counted from 1.
        qid: as given.
        query: its text, not validated yet.
        docids: as given, by place.
        ids: the same as text, by place.
        texts: by place.
        prior_scores: by place; None for those that have none.
        seal: of the input up to this list (CRC-32): what is behind it can be gone on with if this is the same.

    """

    line: int
    qid: str | int
    query: str
    docids: tuple[str | int, ...]
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    prior_scores: tuple[float | None, ...]
    seal: int = 0

    @property
    def documents(self) -> tuple[GivenDocument, ...]:
        """The candidates one by one, as requests are made of."""
        return tuple(map(GivenDocument, self.ids, self.texts, self.prior_scores))


class BadLine(NamedTuple):
    """A line that is no list. `qid` is what it is called, where that much could be read."""

    line: int
    message: str
    qid: str | int | None = None
    seal: int = 0


Line: TypeAlias = CandidateList | BadLine
Parse: TypeAlias = Callable[[bytes, int, int], Line]
"""From a line's bytes, its number and the seal of the input up to it."""


class _Mistake(Exception):
    """What is wrong with a line, as a sentence."""


class Source(Protocol):
    """Lists under reading. Iterate it once; a reader in another thread may watch how far it is."""

    lists_read: int
    """Lists, and lines that are none."""

    @property
    def is_file(self) -> bool:
        """Whether the next list is always there, as in a file, and not in a pipe."""

    @property
    def share_read(self) -> float:
        """The part of the input that was read, from 0 to 1; 0 where nobody knows."""

    def skip(self, lists: int, seal: int) -> None:
        """Pass over what is done already, before the first list is read.

        Raises:
            FailedPrecondition: these lists are others than those that were read then, by their seal.

        """

    def __iter__(self) -> Iterator[Line]:
        """Yield the lists, and the lines that are none."""


def opened(path: str, *, limit: int | None = None, parse: Parse | None = None) -> Source:
    """Open a file of lists; `-` is standard input. What it is, is known by its first bytes, whatever the name says.

    Args:
        path: of JSON lines, gzipped or not, or of Parquet (see `jobs.parquet`).
        limit: lists at most.
        parse: makes a list of a line that is written otherwise (JSON lines alone); None reads lists.

    Raises:
        OSError: it cannot be opened.
        FailedPrecondition: Parquet that comes through a pipe, or without pyarrow, or where lines are written otherwise;
            a file named .parquet that is none.

    """
    raw = sys.stdin.buffer if path == STDIN else Path(path).open("rb")  # noqa: SIM115  # read by a thread, to its end
    status = os.fstat(raw.fileno())
    size = status.st_size if stat.S_ISREG(status.st_mode) else None
    buffered = cast(io.BufferedReader, raw)
    if begins_with(buffered, PARQUET_MAGIC):
        if parse is not None:
            raise FailedPrecondition(f"{path} is Parquet, and JSON lines are needed here")
        from podium_server.jobs.parquet import ParquetSource

        return ParquetSource(path, limit=limit)
    if path.endswith(".parquet"):
        # Nobody calls JSON lines so; an empty file would be a job of no lists that has succeeded.
        raise FailedPrecondition(f"{path} cannot be read as Parquet: it does not begin as such a file does (PAR1)")
    return LineSource(unpacked(buffered), cast(BinaryIO, buffered), size, limit, parse)


def check_seal(lists: int, found: int, wanted: int, seal: int) -> None:
    """Refuse an input whose first lists are not those that are done.

    Raises:
        FailedPrecondition: there are fewer, or their seal is another.

    """
    if lists < wanted:
        what = f"has {lists:,} lists, and {wanted:,} are done already"
    elif found != seal:
        what = f"has other lists than those {wanted:,} that are done already"
    else:
        return
    raise FailedPrecondition(f"the input {what}; give the input of before, or begin anew with --restart")


@dataclass(slots=True)
class LineSource:
    """A file of JSON lines under reading (a `Source`).

    Args:
        stream: of lines.
        raw: what `stream` is fed from; the same, unless it is compressed.
        size_bytes: of `raw`; None where nobody knows (a pipe).
        limit: lists at most.
        parse: makes a list of a line; None reads lists.

    """

    stream: BinaryIO
    raw: BinaryIO
    size_bytes: int | None = None
    limit: int | None = None
    parse: Parse | None = None
    lists_read: int = field(init=False, default=0)
    _line: int = field(init=False, default=0)
    _seal: int = field(init=False, default=0)
    _over: bool = field(init=False, default=False)

    @property
    def is_file(self) -> bool:
        """Whether it is no pipe."""
        return self.size_bytes is not None

    @property
    def share_read(self) -> float:
        """The part of the file that was read, from 0 to 1; 0 where nobody knows."""
        if self._over:
            return 1.0
        parts = [self.lists_read / self.limit] if self.limit else []
        if self.size_bytes:
            parts.append(self.raw.tell() / self.size_bytes)
        return min(1.0, max(parts, default=0.0))

    def skip(self, lists: int, seal: int) -> None:
        """Pass over what is done already; see `Source`."""
        try:
            while self.lists_read < lists and self._next():
                pass
        except BROKEN_OFF:
            # A file that breaks off ended with a bad line, which was an item; its seal is that of the line before.
            self.lists_read += 1
            self._over = True
        check_seal(self.lists_read, self._seal, lists, seal)

    def __iter__(self) -> Iterator[Line]:
        """Yield the lists, and the lines that are none; empty lines are nothing.

        A file that breaks off in the middle (a gzip that was cut) ends with a bad line which says so.
        """
        try:
            while not self._over and (self.limit is None or self.lists_read < self.limit) and (raw := self._next()):
                if is_cut(raw):
                    yield BadLine(self._line, f"{TOO_LONG}; split the list", seal=self._seal)
                else:
                    yield (self.parse or parse_line)(raw, self._line, self._seal)
        except BROKEN_OFF as error:
            self.lists_read += 1
            yield BadLine(self._line + 1, f"the file cannot be read on: {error}", seal=self._seal)
        self._over = True

    def _next(self) -> bytes:
        """Return the next line that is not empty (of one that is too long, the beginning), sealed; b"" at the end."""
        while raw := self.stream.readline(LINE_BYTES_MAX):
            self._line += 1
            if is_cut(raw):
                _skip_line(self.stream)
            elif not (raw := bare(raw, self._line)):
                continue
            self.lists_read += 1
            self._seal = zlib.crc32(raw, self._seal)
            return raw
        return b""


def _skip_line(stream: BinaryIO) -> None:
    while (part := stream.readline(1 << 20)) and not part.endswith(b"\n"):
        pass


def parse_line(raw: bytes, number: int, seal: int = 0) -> Line:
    """Return the list that a line holds, or what is wrong with it."""
    try:
        row = _parsed(raw)
    except _Mistake as mistake:
        return BadLine(number, str(mistake), None, seal)
    return list_of(row, number, seal)


def list_of(row: Any, number: int, seal: int = 0) -> Line:
    """Return the list that a row holds (data as JSON has it), or what is wrong with it."""
    try:
        # Nearly all lists are as they should be: a few looks at whole columns say so, in a third of the time.
        qid, query, candidates = row["qid"], row["query"], row["candidates"]
        docids = tuple([candidate["docid"] for candidate in candidates])
        texts = tuple([candidate["text"] for candidate in candidates])
        scores = tuple([candidate.get("score") for candidate in candidates])
        if (
            {type(qid), type(query), *map(type, docids), *map(type, texts)} == _STRINGS
            and set(map(type, scores)) <= _SCORES
            and type(candidates) is list
            and qid
            and all(docids)
        ):
            return CandidateList(number, qid, query, docids, docids, texts, scores, seal)
    except (KeyError, TypeError, AttributeError):
        pass
    return _looked_at_closely(row, number, seal)


_STRINGS = {str}
_SCORES = {float, type(None)}


def _looked_at_closely(row: Any, number: int, seal: int) -> Line:
    qid = None
    try:
        if not isinstance(row, dict):
            raise _Mistake(f'is {_kind(row)}; {{"qid", "query", "candidates"}} is needed')
        qid = _identity(row, "qid")
        query = row.get("query")
        if not isinstance(query, str):
            raise _Mistake(f"query: {_wrong(row, 'query', 'a string')}")
        candidates = row.get("candidates")
        if not isinstance(candidates, list):
            raise _Mistake(f"candidates: {_wrong(row, 'candidates', 'a list')}")
        docids, texts, scores = [], [], []
        for place, candidate in enumerate(candidates):
            docid, text, score = _candidate(candidate, f"candidates[{place}]")
            docids.append(docid)
            texts.append(text)
            scores.append(score)
    except _Mistake as mistake:
        return BadLine(number, str(mistake), qid, seal)
    ids = tuple(map(str, docids))
    return CandidateList(number, qid, query, tuple(docids), ids, tuple(texts), tuple(scores), seal)


def _parsed(raw: bytes) -> Any:
    try:
        # As JSON of the web is: without it, json would look for what encoding it is.
        return _decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _Mistake(f"is no UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise _Mistake(f"is no JSON at column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise _Mistake("is JSON nested too deeply to be read") from error
    except ValueError as error:
        raise _Mistake(f"is JSON that cannot be read: {error}") from error  # a number of thousands of digits


_decode = json.JSONDecoder().decode


def _candidate(given: Any, where: str) -> tuple[str | int, str, float | None]:
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
        return docid, text, None if score is None else float(score)
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
        case dict():
            return "an object"
        case _:
            return f"a {type(value).__name__}"  # of Parquet, which has more types than JSON
