"""The files of a job while they grow: plain, in gzip members, or on their way to Parquet. See `jobs.outputs`."""

from __future__ import annotations

import base64
import gzip
import os
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from podium_server.errors import FailedPrecondition

STDOUT = "-"
PART = ".part"
GZIP = ".gz"
PARQUET = ".parquet"
WHOLE = ".whole"
"""After the name of a part: the file that will get the name, where it is not the part itself."""

BUFFER_BYTES = 1 << 18
# A member of a gzip file. The tail that is no member yet goes into each commit, so it must be small; deflate looks back
# 32 KiB, so that larger members are hardly shorter.
MEMBER_BYTES = 64 << 10
GZIP_LEVEL = 6


class Sink(Protocol):
    """One file under way."""

    def write(self, line: bytes) -> None:
        """Take a line, with its end."""

    def item_done(self) -> None:
        """Notice that an item is whole."""

    def commit(self) -> Mapping[str, Any]:
        """Bring everything to the disk, and return where it ends: what `opened` needs to go on behind it."""

    def finish(self) -> None:
        """Make the file whole, on the disk and closed, under the first name of `renames`."""

    def close(self) -> None:
        """Leave the file as it is."""


def opened(path: str, mark: Mapping[str, Any] | None) -> Sink:
    """Open the file for `path` where `mark` says that it ended; without a mark it begins anew.

    Raises:
        OSError: it cannot be opened.
        FailedPrecondition: it is shorter than it was.

    """
    if path == STDOUT:
        return DirectSink(sys.stdout.buffer)
    if not is_plain(path):
        return DirectSink(Path(path).open("wb"))  # closed by `finish` or `close`
    part = Path(path + PART)
    if path.endswith(GZIP):
        return GzipSink(part, mark)
    return ParquetSink(part, mark) if path.endswith(PARQUET) else PlainSink(part, mark)


def is_plain(path: str) -> bool:
    """Tell whether a path is, or will be, a file that can be cut and renamed."""
    return path != STDOUT and (not Path(path).exists() or Path(path).is_file())


def renames(path: str) -> tuple[Path, Path]:
    """Return what becomes of a part that is whole: from, to."""
    return Path(path + PART + (WHOLE if path.endswith(PARQUET) else "")), Path(path)


class DirectSink:
    """Standard output, a pipe or a device: every item goes out at once."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, line: bytes) -> None:
        """Take a line."""
        self._stream.write(line)

    def item_done(self) -> None:
        """Hand it on: whoever reads a pipe waits for it."""
        self._stream.flush()

    def commit(self) -> Mapping[str, Any]:
        """Nothing to go on behind."""
        return {}

    def finish(self) -> None:
        """Hand on what is left."""
        self.close()

    def close(self) -> None:
        """Close it, if it is ours."""
        self._stream.flush()
        if self._stream is not sys.stdout.buffer:
            self._stream.close()


class PlainSink:
    """A file of lines."""

    def __init__(self, part: Path, mark: Mapping[str, Any] | None) -> None:
        self._stream = _cut(part, 0 if mark is None else mark["bytes"])

    def write(self, line: bytes) -> None:
        """Take a line."""
        self._stream.write(line)

    def item_done(self) -> None:
        """Nothing to do."""

    def commit(self) -> Mapping[str, Any]:
        """Bring all lines to the disk."""
        _sync(self._stream)
        return {"bytes": self._stream.tell()}

    def finish(self) -> None:
        """Bring all lines to the disk, and close the file."""
        _sync(self._stream)
        self._stream.close()

    def close(self) -> None:
        """Leave the file as it is."""
        self._stream.close()


class GzipSink:
    """A gzip file of many members. Where they end depends on the lines alone, never on when a commit was made.

    What is no whole member yet is part of the commit itself.
    """

    def __init__(self, part: Path, mark: Mapping[str, Any] | None) -> None:
        self._stream = _cut(part, 0 if mark is None else mark["bytes"])
        self._tail = bytearray() if mark is None else bytearray(zlib.decompress(base64.b64decode(mark["tail"])))
        self._empty = self._stream.tell() == 0

    def write(self, line: bytes) -> None:
        """Take a line."""
        self._tail += line

    def item_done(self) -> None:
        """End the member if it is long enough."""
        if len(self._tail) >= MEMBER_BYTES:
            self._end_member()

    def commit(self) -> Mapping[str, Any]:
        """Bring the members to the disk, and return the rest."""
        _sync(self._stream)
        tail = base64.b64encode(zlib.compress(bytes(self._tail), 1)).decode()
        return {"bytes": self._stream.tell(), "tail": tail}

    def finish(self) -> None:
        """Write the last member."""
        if self._tail or self._empty:
            self._end_member()
        _sync(self._stream)
        self._stream.close()

    def close(self) -> None:
        """Leave the file as it is."""
        self._stream.close()

    def _end_member(self) -> None:
        # Without a time in the header: the same lines make the same bytes.
        self._stream.write(gzip.compress(bytes(self._tail), GZIP_LEVEL, mtime=0))
        self._tail.clear()
        self._empty = False


class ParquetSink(PlainSink):
    """JSON lines until the end, as a Parquet file cannot be gone on with; then a Parquet file."""

    def __init__(self, part: Path, mark: Mapping[str, Any] | None) -> None:
        from podium_server.jobs import parquet

        parquet.check_installed()
        super().__init__(part, mark)
        self._part = part

    def finish(self) -> None:
        """Turn the lines into Parquet."""
        from podium_server.jobs import parquet

        super().finish()
        parquet.from_json_lines(self._part, self._part.with_name(self._part.name + WHOLE))


def _cut(part: Path, size: int) -> BinaryIO:
    """Open a part, without what was written behind its first `size` bytes."""
    stream = part.open("r+b" if size else "wb", BUFFER_BYTES)  # kept open
    there = stream.seek(0, os.SEEK_END)
    if there < size:
        stream.close()
        raise FailedPrecondition(
            f"{part} has {there:,} bytes, and {size:,} were written; it was changed since. Begin anew with --restart"
        )
    stream.seek(size)
    stream.truncate()
    return stream


def _sync(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())
