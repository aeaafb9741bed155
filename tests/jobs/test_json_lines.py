"""Files of JSON lines as they come: from other systems, cut in the middle, with one line that is the whole disk."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from podium_server.errors import ConfigInvalid, FailedPrecondition, InvalidRequest
from podium_server.jobs import json_lines, lists
from podium_server.jobs.json_lines import numbered
from podium_server.jobs.labelled import read_lists
from podium_server.jobs.lists import BadLine, CandidateList
from podium_server.labels.format import read_lines
from podium_server.training import examples
from tests.cli.conftest import Podium, a_list, lines, write_lists

READERS: dict[str, tuple[Callable[[Path], Any], type[Exception]]] = {
    "labelled lists": (lambda path: list(read_lists(path, {})), InvalidRequest),
    "labels": (lambda path: list(read_lines(path)), InvalidRequest),
    "what a student learns from": (lambda path: examples.read([path]), ConfigInvalid),
}


def labelled(number: int) -> dict[str, Any]:
    """Return a list that every reader takes for its own."""
    row = a_list(f"q{number}", 3)
    for candidate in row["candidates"]:
        candidate["rel"] = 1
    return {**row, "format": "podium-labels/1", "ranking": [one["docid"] for one in row["candidates"]]}


def cut_gzip(path: Path, rows: int) -> Path:
    """Write a gzip that lacks its end, but has most of its lines: they are written one member each."""
    parts = [gzip.compress((json.dumps(labelled(number)) + "\n").encode()) for number in range(rows)]
    path.write_bytes(b"".join(parts)[:-20])
    return path


@pytest.mark.parametrize("reader", READERS)
def test_a_gzip_that_was_cut_is_told_with_the_line_that_was_reached(tmp_path: Path, reader: str) -> None:
    read, error = READERS[reader]
    path = cut_gzip(tmp_path / "cut.gz", 5)
    with pytest.raises(error, match=r"cut\.gz, line 5: the file cannot be read on"):
        read(path)


def test_a_job_keeps_what_was_read_before_and_says_so(podium: Podium, tmp_path: Path) -> None:
    cut_gzip(tmp_path / "in.gz", 5)

    ended = podium("rerank", "--pipeline", "recall", "in.gz", "--out", "out.jsonl")

    assert ended.returncode == 1
    assert "line 5: INVALID_LINE: the file cannot be read on" in ended.stderr
    assert [line["qid"] for line in lines(tmp_path / "out.jsonl")] == ["q0", "q1", "q2", "q3"]


@pytest.mark.parametrize("reader", READERS)
def test_a_table_is_refused_by_its_name(tmp_path: Path, reader: str) -> None:
    read, error = READERS[reader]
    pq.write_table(pa.Table.from_pylist([labelled(0)]), tmp_path / "in.parquet")
    with pytest.raises(error, match=r"in\.parquet: is Parquet, and JSON lines are needed here"):
        read(tmp_path / "in.parquet")


@pytest.mark.parametrize("reader", READERS)
def test_a_line_that_does_not_end_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    monkeypatch.setattr(json_lines, "LINE_BYTES_MAX", 1000)
    read, error = READERS[reader]
    write_lists(tmp_path / "in", [labelled(0), {**labelled(1), "query": "x" * 2000}])
    with pytest.raises(error, match=r"in, line 2: is longer than"):
        read(tmp_path / "in")


@pytest.mark.parametrize("reader", [*READERS, "jobs"])
def test_editors_of_other_systems(tmp_path: Path, reader: str) -> None:
    """A byte order mark before the first line, CRLF behind each, an empty line at the end."""
    plain, other = tmp_path / "plain", tmp_path / "other"
    write_lists(plain, [labelled(0), labelled(1)])
    other.write_bytes(b"\xef\xbb\xbf" + plain.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    if reader == "jobs":
        both = [[one._replace(seal=0) for one in lists.opened(str(path))] for path in (plain, other)]
        assert all(isinstance(one, CandidateList) for one in both[0])
    else:
        both = [READERS[reader][0](path) for path in (plain, other)]
    assert both[0] == both[1]


@pytest.mark.parametrize("text", ["", "\n\r\n", "\ufeff", "\ufeff\n"])
def test_a_file_of_nothing_has_no_lines(tmp_path: Path, text: str) -> None:
    path = tmp_path / "in"
    path.write_text(text, "utf-8")
    assert list(numbered(path)) == list(lists.opened(str(path))) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"[]", "is a list; "),
        (b'"a list"', "is a string; "),
        (b"7", "is 7; "),
        (b'{"qid": "q", "query": "x", "candidates": [{"docid": "a", "text": "t", "score": ' + b"9" * 5000 + b"}]}",
         "is JSON that cannot be read: "),
        (b'{"qid": "q"', "is no JSON at column"),
        ('{"qid": "q"}'.encode("utf-16"), "is no UTF-8 at byte 0"),
        (b"[" * 100_000, "is JSON nested too deeply"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_list_is_a_value_too(tmp_path: Path, line: bytes, said: str) -> None:
    path = tmp_path / "in"
    path.write_bytes(line + b"\n" + json.dumps(a_list("q", 1)).encode() + b"\n")
    first, *_, last = lists.opened(str(path))
    assert isinstance(first, BadLine)
    assert first.message.startswith(said)
    assert last.qid == "q"


@pytest.mark.parametrize("content", [b"", b'{"qid": "q"}\n'])
def test_a_table_by_name_alone_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "in.parquet").write_bytes(content)
    with pytest.raises(FailedPrecondition, match=r"in\.parquet cannot be read as Parquet"):
        lists.opened(str(tmp_path / "in.parquet"))
