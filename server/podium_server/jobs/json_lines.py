"""Files of JSON lines, plain or gzipped: their lines by number, and what stands in the way of reading on.

Jobs, which go on after a bad line, read streams of lists by `jobs.lists`; here is what both have in common, and the way
for everybody who needs the whole file.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from podium_server.errors import InvalidRequest

GZIP_MAGIC = b"\x1f\x8b"
PARQUET_MAGIC = b"PAR1"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# Ten thousand candidates of 6 KB. A file without line ends cannot fill the memory.
LINE_BYTES_MAX = 64 << 20
TOO_LONG = f"is longer than {LINE_BYTES_MAX:,} bytes"

BROKEN_OFF = (OSError, EOFError, zlib.error)
"""What reading on raises where a file ends in its middle: gzip that was cut or damaged, a disk that fails."""


def begins_with(raw: io.BufferedReader, magic: bytes) -> bool:
    """Tell whether a file begins with these bytes, which stay unread."""
    return raw.peek(len(magic))[: len(magic)] == magic


def unpacked(raw: io.BufferedReader) -> BinaryIO:
    """Return what a file holds, gzip or plain, known by its first bytes; the caller closes `raw`."""
    return cast(BinaryIO, gzip.open(raw) if begins_with(raw, GZIP_MAGIC) else raw)


def is_cut(line: bytes) -> bool:
    """Tell whether a line, read with `readline(LINE_BYTES_MAX)`, is the beginning of one that is too long."""
    return len(line) == LINE_BYTES_MAX and not line.endswith(b"\n")


def bare(line: bytes, number: int) -> bytes:
    """Return a line without the byte order mark that some editors put before the first one; b"" of an empty line."""
    if number == 1:
        line = line.removeprefix(BYTE_ORDER_MARK)
    return b"" if line.isspace() else line


def numbered(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file that are not empty, with their numbers, from 1.

    Raises:
        OSError: the file cannot be opened.
        InvalidRequest: it is Parquet, has a line that is too long, or breaks off, with the line that was reached.

    """
    with Path(path).open("rb") as raw:
        if begins_with(raw, PARQUET_MAGIC):
            raise InvalidRequest(str(path), "is Parquet, and JSON lines are needed here")
        number = 0
        try:
            stream = unpacked(raw)
            while line := stream.readline(LINE_BYTES_MAX):
                number += 1
                if is_cut(line):
                    raise InvalidRequest(where(path, number), TOO_LONG)
                if line := bare(line, number):
                    yield number, line
        except BROKEN_OFF as error:
            raise InvalidRequest(where(path, number + 1), f"the file cannot be read on: {error}") from error


def where(path: str | Path, number: int) -> str:
    """Return how a line is called in an error."""
    return f"{path}, line {number}"
