"""Parquet in and out: the same lists, the same orders, and clear words about what is no list."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_server.errors import FailedPrecondition
from podium_server.jobs import lists
from podium_server.jobs.columns import FIELDS_MAX, Column
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


@pytest.mark.parametrize(
    ("candidates", "said"),
    [
        (["a", "b"], "candidates is list<element: string>"),
        ("a", "candidates is string"),
        ([{"id": "a", "text": "t"}], "a list of structs with docid and text is needed"),
    ],
)
def test_columns_of_another_type_are_refused_at_once(tmp_path: Path, candidates: Any, said: str) -> None:
    path = write_parquet(tmp_path / "in.parquet", [{"qid": "q", "query": "x", "candidates": candidates}])
    with pytest.raises(FailedPrecondition, match=f"in.parquet: {said}|in.parquet: .*{said}"):
        lists.opened(str(path))


def test_values_that_json_does_not_have_are_named(tmp_path: Path) -> None:
    rows = [{**scored("q", 1), "qid": value} for value in (b"q", Decimal(1), date(2026, 11, 21))]
    read = [
        line
        for number, row in enumerate(rows)
        for line in lists.opened(str(write_parquet(tmp_path / f"{number}.parquet", [row])))
    ]
    assert [line.message for line in read if isinstance(line, BadLine)] == [
        f"qid: is a {name}; a string is needed" for name in ("bytes", "Decimal", "date")
    ]


def test_a_text_that_is_no_utf_8_spoils_its_own_row_alone(tmp_path: Path) -> None:
    ids = pa.array([b"a", b"\xff", b"c"])
    table = pa.Table.from_pylist([scored("", 2)] * 3).drop_columns("qid")
    damaged = pa.StringArray.from_buffers(3, *ids.buffers()[1:])
    pq.write_table(table.append_column("qid", damaged), tmp_path / "in.parquet")
    one, other, last = lists.opened(str(tmp_path / "in.parquet"))
    assert (one.qid, last.qid, last.line) == ("a", "c", 3)
    assert isinstance(other, BadLine)
    assert other.message.startswith("cannot be read: ")
    again = lists.opened(str(tmp_path / "in.parquet"))
    again.skip(2, other.seal)
    assert list(again) == [last]


def test_a_damaged_page_ends_the_file_with_a_bad_row(podium: Podium, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "in.parquet", [scored(f"q{i}", 2) for i in range(600)], row_group_size=256)
    where = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[where : where + 20] = b"\xff" * 20
    path.write_bytes(content)

    ended = podium("rerank", "--pipeline", "recall", "in.parquet", "--out", "out.jsonl")

    assert ended.returncode == 1
    assert "line 257: INVALID_LINE: the file cannot be read on" in ended.stderr
    assert len(lines(tmp_path / "out.jsonl")) == 256
    *_, last = lists.opened(str(path))
    again = lists.opened(str(path))
    again.skip(257, last.seal)
    assert list(again) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "error", "ranking"]), JSON, max_size=4), max_size=6))
@settings(max_examples=60, deadline=None)
def test_nothing_that_a_line_holds_is_lost(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("lines")
    rows = [{"other": 1, **row} for row in rows]
    columns: dict[str, Column] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, Column()).see(value)
    (folder / "lines").write_text("".join(json.dumps(row) + "\n" for row in rows))
    from_json_lines(folder / "lines", folder / "out.parquet")

    read = pq.read_table(folder / "out.parquet").to_pylist()
    assert len(read) == len(rows)
    for row, got in zip(rows, read, strict=True):
        for name, value in got.items():
            assert_same(columns[name], row.get(name), value)


def assert_same(column: Column, given: Any, got: Any) -> None:
    """Compare what was written with what is read, in the type that all lines fit."""
    match column.kind:
        case _ if given is None:
            assert got is None
        case "json":
            assert json.loads(got) == given
        case "text":
            assert got == str(given)
        case "list":
            assert len(got) == len(given)
            for one, other in zip(given, got, strict=True):
                assert_same(column.item or Column(), one, other)
        case "object":
            assert given.keys() <= got.keys() == column.fields.keys()
            for name, value in got.items():
                assert_same(column.fields[name], given.get(name), value)
        case _:
            assert got == given


def test_labels_keep_their_structs(tmp_path: Path) -> None:
    """What the first lines do not have, later ones may: another stage's options, a candidate's score."""
    stage = {"strategy": "sliding-window", "options": {}}
    rows = [
        {"qid": i, "candidates": [{"docid": "a", "text": "\ud800"}], "teacher": {"stages": [stage]}} for i in range(2)
    ]
    rows.append({"qid": 2, "candidates": [{"docid": 7, "text": "t", "score": 1}], "teacher": {"stages": [stage]}})
    rows[2]["teacher"] = {"stages": [{**stage, "options": {"size": 20}}], "seed": 3}
    (tmp_path / "lines").write_text("".join(json.dumps(row) + "\n" for row in rows))
    from_json_lines(tmp_path / "lines", tmp_path / "out.parquet")

    one, _, last = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert last["teacher"] == {"stages": [{"strategy": "sliding-window", "options": {"size": 20}}], "seed": 3}
    assert last["candidates"] == [{"docid": "7", "text": "t", "score": 1}]
    assert one["candidates"] == [{"docid": "a", "text": "\\ud800", "score": None}]
    assert one["teacher"] == {"stages": [{"strategy": "sliding-window", "options": {"size": None}}], "seed": None}


def test_names_that_are_data_make_no_columns() -> None:
    column = Column()
    for number in range(FIELDS_MAX + 10):
        column.see({f"document {number}": 1})
    assert column.kind == "json"
    assert len(column.fields) == FIELDS_MAX + 1
    assert column.fitter()({"x": 1}) == '{"x": 1}'


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
