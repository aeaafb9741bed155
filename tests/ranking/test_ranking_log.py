"""The log of rankings: whole lines, bounded on the disk and in memory, from several processes at once."""

from __future__ import annotations

import json
import multiprocessing
import threading
from pathlib import Path
from typing import Any

import pytest

from podium_server.accounting.usage import Usage
from podium_server.ranking.ranking_log import Entry, Ranked, RankingLog


def entry(number: int) -> Entry:
    ranked = Ranked("fast", ("d1", "d0"), (1, 0), (2.0, None), "logit", "complete", 0.01, Usage(calls=1))
    return Entry(1.0, f"r{number}", "f" * 16, 2, {"incumbent": ranked}, "incumbent")


def made(path: Path, **more: Any) -> RankingLog:
    return RankingLog(path, **({"file_bytes": 1 << 20, "files": 3, "queue_entries": 10_000} | more))


def lines(folder: Path) -> list[dict[str, Any]]:
    files = [path for path in folder.iterdir() if not path.name.endswith(".lock")]
    return [json.loads(line) for path in files for line in path.read_text("utf-8").splitlines()]


def test_a_line_is_json_with_ids_and_no_text(tmp_path: Path) -> None:
    log = made(tmp_path / "log.jsonl")
    log.put(entry(7))
    log.close()
    [line] = lines(tmp_path)
    assert (line["request_id"], line["shown"]) == ("r7", "incumbent")
    assert line["rankings"]["incumbent"]["ids"] == ["d1", "d0"]
    assert line["rankings"]["incumbent"]["scores"] == [2.0, None]
    assert "text" not in line
    assert log.written == 1


def test_files_are_put_aside_by_size_and_the_oldest_deleted(tmp_path: Path) -> None:
    size = len(entry(0).line())
    log = made(tmp_path / "log.jsonl", file_bytes=10 * size, files=3)
    for number in range(500):
        log._write([entry(number)])
    log.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["log.jsonl", "log.jsonl.1", "log.jsonl.2", "log.jsonl.lock"]
    assert all((tmp_path / name).stat().st_size <= 11 * size for name in names[:3])
    kept = {int(line["request_id"][1:]) for line in lines(tmp_path)}
    assert kept == set(range(min(kept), 500))  # the newest, without a gap


def test_what_does_not_fit_into_the_queue_is_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = made(tmp_path / "log.jsonl", queue_entries=10)
    stuck, free = threading.Event(), threading.Event()

    def slow(entries: Any) -> None:
        stuck.set()
        assert free.wait(30)
        RankingLog._write(log, entries)

    monkeypatch.setattr(log, "_write", slow)
    log.put(entry(0))
    assert stuck.wait(30)
    for number in range(1, 31):
        log.put(entry(number))
    assert log.dropped == 20
    free.set()
    log.close()
    assert log.written == 11
    assert len(lines(tmp_path)) == 11


def test_a_disk_that_refuses_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log = made(tmp_path / "file" / "log.jsonl")  # a file is no folder
    log.put(entry(0))
    log.close()
    assert (log.written, log.lost) == (0, 1)


def _many(path: Path, first: int) -> None:
    log = made(path, file_bytes=40_000, files=100)
    for number in range(first, first + 300):
        log.put(entry(number))
    log.close()
    assert log.written == 300


def test_processes_share_a_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_many, args=(tmp_path / "log.jsonl", 1000 * each)) for each in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    ids = sorted(line["request_id"] for line in lines(tmp_path))
    assert ids == sorted(f"r{1000 * each + number}" for each in range(3) for number in range(300))
