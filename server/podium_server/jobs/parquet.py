"""Parquet for jobs (extra `parquet`): lists out of it, and what a job wrote into it. pyarrow is imported here alone.

An input has a row a list: `qid` (string or whole number), `query` (string) and `candidates`, a list of structs with
`docid` (string or whole number), `text` (string) and, where there are any, `score` (number). Other columns are not
read. An output has a column for each key of the JSON lines, in the type that all of them fit (`jobs.columns`); what a
line does not have is null.
"""

from __future__ import annotations

import itertools
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from podium_server.errors import FailedPrecondition
from podium_server.jobs.columns import Column
from podium_server.jobs.lists import STDIN, BadLine, Line, check_seal, list_of

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("qid", "query", "candidates")
CANDIDATE_FIELDS = ("docid", "text")
ROWS_AT_A_TIME = 256
READ_BYTES_AT_A_TIME = 1 << 20
ROWS_IN_GROUP = 10_000
# Of JSON lines: as Python objects and as columns they take several times as much. Labels have all texts in them.
BYTES_IN_GROUP = 8 << 20


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
        FailedPrecondition: it comes through a pipe, lacks a column, has one of another type, or cannot be read.

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
        except (pa.ArrowException, OSError) as error:  # a damaged index is an OSError to pyarrow
            raise FailedPrecondition(f"{path} cannot be read as Parquet: {error}") from error
        _check_columns(path, self._file.schema_arrow)
        self.lists_read = 0
        self._limit = limit
        self._rows = self._file.metadata.num_rows
        self._seal = 0
        self._unread = self._read()

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
        for _ in itertools.islice(self._unread, lists):
            pass
        check_seal(self.lists_read, self._seal, lists, seal)

    def __iter__(self) -> Iterator[Line]:
        """Yield the lists, and the rows that are none.

        A file that breaks off in the middle (a damaged page) ends with a bad line which says so.
        """
        left = None if self._limit is None else max(0, self._limit - self.lists_read)
        for row in itertools.islice(self._unread, left):
            if isinstance(row, str):
                yield BadLine(self.lists_read, row, seal=self._seal)
            else:
                yield list_of(row, self.lists_read, self._seal)

    def _read(self) -> Iterator[dict[str, Any] | str]:
        """Yield the rows, each counted and sealed, or what is wrong with one; its seal is that of the row before."""
        for row in self._unsealed():
            self.lists_read += 1
            if isinstance(row, dict):
                self._seal = _sealed(row, self._seal)
            yield row

    def _unsealed(self) -> Iterator[dict[str, Any] | str]:
        import pyarrow as pa

        batches = self._file.iter_batches(batch_size=ROWS_AT_A_TIME, columns=list(COLUMNS), use_threads=False)
        try:
            for batch in batches:
                yield from _rows(batch)
        except (pa.ArrowException, OSError) as error:
            yield f"the file cannot be read on: {' '.join(str(error).split())}"


def _check_columns(path: str, schema: pa.Schema) -> None:
    """Refuse a file none of whose rows could be a list.

    Raises:
        FailedPrecondition: with the columns that it lacks, or the type that one has.

    """
    from pyarrow import types

    missing = [name for name in COLUMNS if name not in schema.names]
    if missing:
        raise FailedPrecondition(f"{path} has no column {', '.join(missing)}; {', '.join(COLUMNS)} are needed")
    listed = schema.field("candidates").type
    is_list = types.is_list(listed) or types.is_large_list(listed) or types.is_fixed_size_list(listed)
    one = listed.value_type if is_list else None
    if one is None or not types.is_struct(one) or any(one.get_field_index(name) < 0 for name in CANDIDATE_FIELDS):
        raise FailedPrecondition(
            f"{path}: candidates is {listed}; a list of structs with {' and '.join(CANDIDATE_FIELDS)} is needed"
        )


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | str]:
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):
        # Text that is no UTF-8, a time that Python does not have: in one row or two, and the others are good.
        for at in range(batch.num_rows):
            try:
                yield batch.slice(at, 1).to_pylist()[0]
            except (ValueError, OverflowError) as error:
                yield f"cannot be read: {error}"


def _sealed(row: dict[str, Any], seal: int) -> int:
    return zlib.crc32(json.dumps(row, default=str, separators=(",", ":")).encode("utf-8", "surrogatepass"), seal)


# --- writing ------------------------------------------------------------------------------------------------------


def from_json_lines(source: Path, target: Path) -> None:
    """Write a file of JSON lines as Parquet, a row group at a time. The lines are read twice: for types, and then."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with source.open("rb") as lines:
        columns = _columns(lines)
        schema = pa.schema([(name, _arrow_type(column, pa)) for name, column in columns.items()])
        fitters = {name: column.fitter() for name, column in columns.items()}
        lines.seek(0)
        with target.open("wb") as stream:
            with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
                for group in _groups(lines):
                    rows = [{name: fit(row.get(name)) for name, fit in fitters.items()} for row in group]
                    writer.write_table(pa.Table.from_pylist(rows, schema))
            stream.flush()
            os.fsync(stream.fileno())


def _of_rankings() -> dict[str, Column]:
    """Return the columns of rankings, all of them whatever the lines have, so that the files of all jobs are alike."""
    text = Column.of("text")
    return {
        "qid": text,
        "ranking": Column.of("list", item=text),
        "scores": Column.of("list", item=Column.of("float")),
        "completion": text,
        "error": Column.of("object", reason=text, message=text),
    }


def _columns(lines: BinaryIO) -> dict[str, Column]:
    rankings = _of_rankings()
    if all(json.loads(line).keys() <= rankings.keys() for line in lines):
        return rankings
    lines.seek(0)
    columns: dict[str, Column] = {}
    for line in lines:
        for name, value in json.loads(line).items():
            columns.setdefault(name, Column()).see(value)
    return columns


def _groups(lines: BinaryIO) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    size = 0
    for line in lines:
        group.append(json.loads(line))
        size += len(line)
        if len(group) >= ROWS_IN_GROUP or size >= BYTES_IN_GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


def _arrow_type(column: Column, pa: Any) -> Any:
    match column.kind:
        case "bool":
            return pa.bool_()
        case "int":
            return pa.int64()
        case "float":
            return pa.float64()
        case "list":
            return pa.list_(_arrow_type(column.item or Column(), pa))
        case "object":
            return pa.struct([(name, _arrow_type(inner, pa)) for name, inner in column.fields.items()])
    return pa.string()
