"""Parquet for jobs (extra `parquet`): lists out of it, and what a job wrote into it. pyarrow is imported here alone.

An input has a row a list: `qid` (string or whole number), `query` (string) and `candidates`, a list of structs with
`docid` (string or whole number), `text` (string) and, where there are any, `score` (number). Other columns are not
read. An output has a column for each key of the JSON lines, with the types that the first thousand lines show.
"""

from __future__ import annotations

import itertools
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podium_server.errors import FailedPrecondition
from podium_server.jobs.lists import STDIN, Line, check_seal, list_of

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("qid", "query", "candidates")
ROWS_AT_A_TIME = 256
READ_BYTES_AT_A_TIME = 1 << 20
ROWS_IN_GROUP = 10_000
LINES_LOOKED_AT = 1_000
"""For the types of an output's columns."""


def check_installed() -> None:
    """Refuse what needs pyarrow, where it is not there.

    Raises:
        FailedPrecondition: with what to install.

    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise FailedPrecondition(f"Parquet needs pyarrow: pip install 'podium[parquet]' ({error})") from error


class ParquetSource:
    """A Parquet file of lists under reading, some hundred rows at a time (a `jobs.lists.Source`).

    Args:
        path: of the file.
        limit: lists at most.

    Raises:
        FailedPrecondition: it comes through a pipe, lacks a column, or cannot be read.

    """

    def __init__(self, path: str, *, limit: int | None = None) -> None:
        check_installed()
        import pyarrow as pa
        import pyarrow.parquet as pq

        if path == STDIN:
            raise FailedPrecondition("Parquet cannot be read from a pipe: its index is at the end; name the file")
        try:
            # A column chunk is read a piece at a time, so that a row group of a million rows fits as well.
            self._file = pq.ParquetFile(path, buffer_size=READ_BYTES_AT_A_TIME, pre_buffer=False)
        except pa.ArrowException as error:
            raise FailedPrecondition(f"{path} cannot be read as Parquet: {error}") from error
        missing = [name for name in COLUMNS if name not in self._file.schema_arrow.names]
        if missing:
            raise FailedPrecondition(f"{path} has no column {', '.join(missing)}; {', '.join(COLUMNS)} are needed")
        self.lists_read = 0
        self._limit = limit
        self._rows = self._file.metadata.num_rows
        self._done = 0
        self._seal = 0

    @property
    def is_file(self) -> bool:
        """It is one."""
        return True

    @property
    def share_read(self) -> float:
        """The part of the rows that was read, from 0 to 1."""
        rows = self._rows if self._limit is None else min(self._rows, self._limit)
        return self.lists_read / rows if rows else 1.0

    def skip(self, lists: int, seal: int) -> None:
        """Pass over what is done already; see `Source`."""
        for row in itertools.islice(self._read(), lists):
            self._seal = _sealed(row, self._seal)
            self.lists_read += 1
        check_seal(self.lists_read, self._seal, lists, seal)
        self._done = lists

    def __iter__(self) -> Iterator[Line]:
        """Yield the lists, and the rows that are none."""
        for row in itertools.islice(self._read(), self._done, self._limit):
            self._seal = _sealed(row, self._seal)
            self.lists_read += 1
            yield list_of(row, self.lists_read, self._seal)

    def _read(self) -> Iterator[dict[str, Any]]:
        for batch in self._file.iter_batches(batch_size=ROWS_AT_A_TIME, columns=list(COLUMNS), use_threads=False):
            yield from batch.to_pylist()


def _sealed(row: dict[str, Any], seal: int) -> int:
    return zlib.crc32(json.dumps(row, default=str, separators=(",", ":")).encode("utf-8", "surrogatepass"), seal)


def from_json_lines(source: Path, target: Path) -> None:
    """Write a file of JSON lines as Parquet, a row group at a time. Columns that a line does not have are null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with source.open("rb") as lines:
        first = [json.loads(line) for line in itertools.islice(lines, LINES_LOOKED_AT)]
        schema = _schema(first)
        rows: Iterator[dict[str, Any]] = itertools.chain(first, map(json.loads, lines))
        with target.open("wb") as stream:
            with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
                while group := list(itertools.islice(rows, ROWS_IN_GROUP)):
                    writer.write_table(_table(group, schema, pa))
            stream.flush()
            os.fsync(stream.fileno())


def _schema(rows: list[dict[str, Any]]) -> pa.Schema:
    """Return the columns: those that rankings have, in types that hold whatever later lines have, or the lines' own."""
    import pyarrow as pa

    ids = pa.string()
    known: dict[str, Any] = {
        "qid": ids,
        "ranking": pa.list_(ids),
        "scores": pa.list_(pa.float64()),
        "completion": pa.string(),
        "error": pa.struct([("reason", pa.string()), ("message", pa.string())]),
    }
    names = dict.fromkeys(name for row in rows for name in row)
    if not rows or names.keys() & {"ranking", "error"}:
        names = dict.fromkeys([*known, *names])
    others = [{name: value for name, value in row.items() if name not in known} for row in rows]
    inferred = pa.Table.from_pylist(others).schema if rows else pa.schema([])
    return pa.schema([(name, known.get(name) or inferred.field(name).type) for name in names])


def _table(rows: list[dict[str, Any]], schema: pa.Schema, pa: Any) -> pa.Table:
    """Return rows as a table. Ids are text, as a column has one type and the ids of a file may have two."""
    for row in rows:
        if not row.keys() <= set(schema.names):
            unknown = ", ".join(sorted(row.keys() - set(schema.names)))
            raise FailedPrecondition(
                f"a later line has {unknown}, which none of the first {LINES_LOOKED_AT:,} has; write JSON lines instead"
            )
        if "qid" in row:
            row["qid"] = str(row["qid"])
        if "ranking" in row:
            row["ranking"] = list(map(str, row["ranking"]))
    try:
        return pa.Table.from_pylist(rows, schema)
    except pa.ArrowException as error:
        raise FailedPrecondition(f"the lines do not fit one table: {error}; write JSON lines instead") from error
