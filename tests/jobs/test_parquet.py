"""Parquet in and out: the same lists, the same orders, and clear words about what is no list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from podium_server.errors import FailedPrecondition
from podium_server.jobs import lists
from podium_server.jobs.lists import BadLine
from podium_server.jobs.parquet import from_json_lines
from tests.cli.conftest import Podium, a_list, lines, write_lists


def scored(qid: str, n: int) -> dict[str, Any]:
    row = a_list(qid, n)
    for place, candidate in enumerate(row["candidates"]):
        candidate["score"] = n - place - 0.5
    return row


def write_parquet(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def test_the_same_lists_in_every_format(podium: Podium, tmp_path: Path) -> None:
    rows = [scored(f"q{i}", 1 + i % 7) for i in range(700)]
    write_lists(tmp_path / "in.jsonl", rows)
    write_parquet(tmp_path / "in.parquet", [{**row, "other": 1} for row in rows], row_group_size=100)

    plain = podium("rerank", "--pipeline", "recall", "in.jsonl", "--out", "plain.jsonl", "--run", "plain.trec")
    table = podium("rerank", "--pipeline", "recall", "in.parquet", "--out", "out.parquet", "--run", "table.trec")

    assert (plain.returncode, table.returncode) == (0, 0), table.stderr
    assert (tmp_path / "plain.trec").read_bytes() == (tmp_path / "table.trec").read_bytes()
    read = pq.read_table(tmp_path / "out.parquet").to_pylist()
    wanted = [{**line, "error": None} for line in lines(tmp_path / "plain.jsonl")]
    assert read == wanted
    assert not list(tmp_path.glob("*.part*"))


def test_a_file_is_read_in_pieces_and_gone_on_with(tmp_path: Path) -> None:
    path = str(write_parquet(tmp_path / "in.parquet", [scored(f"q{i}", 3) for i in range(1000)]))
    first = list(lists.opened(path))
    again = lists.opened(path, limit=900)
    again.skip(600, first[599].seal)

    assert list(again) == first[600:900]
    assert again.share_read == 1.0
    with pytest.raises(FailedPrecondition, match="other lists than those 600"):
        lists.opened(path).skip(600, first[598].seal)


def test_rows_that_are_no_lists(tmp_path: Path) -> None:
    rows = [scored("fine", 2), {**scored("x", 1), "query": None}, {**scored("y", 1), "candidates": None}]
    read = list(lists.opened(str(write_parquet(tmp_path / "in.parquet", rows))))

    assert [line.qid for line in read] == ["fine", "x", "y"]
    messages = [line.message for line in read if isinstance(line, BadLine)]
    assert messages == ["query: is null; a string is needed", "candidates: is null; a list is needed"]


def test_files_that_are_none(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in.parquet", [{"qid": "a"}])
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "in.parquet").read_bytes()[:-10])

    with pytest.raises(FailedPrecondition, match="has no column query, candidates"):
        lists.opened(str(tmp_path / "in.parquet"))
    with pytest.raises(FailedPrecondition, match="cannot be read as Parquet"):
        lists.opened(str(tmp_path / "cut.parquet"))


def test_ids_and_failures_in_one_table(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text(
        "\n".join(
            json.dumps(row)
            for row in (
                {"qid": 7, "ranking": ["a", 2], "scores": [1, None], "completion": "complete"},
                {"qid": "x", "error": {"reason": "BACKEND_DOWN", "message": "gone"}},
            )
        )
    )
    from_json_lines(tmp_path / "lines", tmp_path / "out.parquet")

    one, other = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert one == {"qid": "7", "ranking": ["a", "2"], "scores": [1.0, None], "completion": "complete", "error": None}
    assert other["error"] == {"reason": "BACKEND_DOWN", "message": "gone"}


def test_nothing_is_a_table_too(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("")
    from_json_lines(tmp_path / "lines", tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0
