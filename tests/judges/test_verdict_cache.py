"""Verdicts are paid once, survive a crash, and a file that is no cache says so."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from podium_server.accounting.usage import Usage
from podium_server.errors import StoreError
from podium_server.judges.chat.judge import ChatJudge
from podium_server.judges.chat.settings import ChatSettings
from podium_server.judges.verdict_cache import SqliteVerdictCache
from podium_strategies.plan import Grade, Order, Prefer
from podium_strategies.prompts import load
from tests.judges.scripted_chat import ScriptedChat, saying
from tests.judges.test_chat_judge import ABC, case_of, ruled


def test_what_was_put_is_there_at_once_and_after_a_restart(tmp_path: Path) -> None:
    cache = SqliteVerdictCache(tmp_path / "deep" / "verdicts.sqlite")
    assert cache.get(b"key") is None
    cache.put(b"key", (2, 0, 1), "said \ud800")
    assert cache.get(b"key") == ([2, 0, 1], "said ?")
    cache.put(b"score", 0.1, "")
    cache.close()
    cache.close()
    again = SqliteVerdictCache(tmp_path / "deep" / "verdicts.sqlite")
    assert again.get(b"key") == ([2, 0, 1], "said ?")
    assert again.get(b"score") == (0.1, "")
    assert again.sizes["rows"] == 2
    again.close()
    assert again.get(b"key") is None


def test_the_oldest_are_forgotten(tmp_path: Path) -> None:
    cache = SqliteVerdictCache(tmp_path / "verdicts.sqlite", rows_max=100)
    for number in range(250):
        cache.put(number.to_bytes(4, "big"), number, "")
        if number % 50 == 0:
            cache.flush()
    cache.flush()
    assert cache.sizes["rows"] <= 100
    assert cache.get((249).to_bytes(4, "big")) == (249, "")
    assert cache.get((0).to_bytes(4, "big")) is None
    cache.close()
    small = SqliteVerdictCache(tmp_path / "small.sqlite", bytes_max=10_000)
    for number in range(50):
        small.put(number.to_bytes(4, "big"), number, "x" * 1000)
    small.flush()
    assert small.sizes["bytes"] <= 10_000
    assert small.get((49).to_bytes(4, "big")) is not None
    small.close()


def test_two_who_share_a_file_keep_its_bound_together(tmp_path: Path) -> None:
    """Each sees what the other adds, a sixteenth of the bound late at most, and reads what the other paid for."""
    caches = [SqliteVerdictCache(tmp_path / "verdicts.sqlite", rows_max=160) for _ in range(2)]
    for number in range(400):
        cache = caches[number % 2]
        cache.put(number.to_bytes(4, "big"), number, "")
        cache.flush()
        assert caches[1 - number % 2].get(number.to_bytes(4, "big")) == (number, "")
        with sqlite3.connect(tmp_path / "verdicts.sqlite") as looking:
            assert looking.execute("SELECT count(*) FROM verdicts").fetchone()[0] <= 160 + 2 * (160 // 16 + 1)
        looking.close()
    for cache in caches:
        cache.close()


def _fill_and_die(path: str) -> None:
    cache = SqliteVerdictCache(path)
    for number in range(1000):
        cache.put(number.to_bytes(4, "big"), number, "n")
    cache.flush()
    Path(path + ".ready").touch()
    number = 1000
    while True:
        cache.put(number.to_bytes(4, "big"), number, "n")
        number += 1
        time.sleep(0)


def test_a_killed_process_leaves_a_good_file(tmp_path: Path) -> None:
    path = str(tmp_path / "verdicts.sqlite")
    process = multiprocessing.get_context("spawn").Process(target=_fill_and_die, args=(path,))
    process.start()
    until = time.monotonic() + 60
    while not os.path.exists(path + ".ready"):
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(0.3)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    cache = SqliteVerdictCache(path)
    assert all(cache.get(number.to_bytes(4, "big")) == (number, "n") for number in range(1000))
    cache.put(b"more", 1, "")
    cache.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a mebibyte."""
    at = tmp_path / "small"
    at.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(at)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield at
    subprocess.run(["umount", "-l", str(at)], check=True)


def test_a_disk_that_was_full_is_written_again(small_disk: Path) -> None:
    """The fault run found that one full moment ended the cache until the next start."""
    cache = SqliteVerdictCache(small_disk / "verdicts.sqlite")
    cache.put(b"before", 1, "")
    cache.flush()
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    cache.put(b"meanwhile", 1, "x" * 100_000)
    cache.flush()
    assert cache.dropped == 1
    assert cache.get(b"before") == (1, "")
    filler.unlink()
    cache.put(b"after", 1, "")
    cache.close()
    again = SqliteVerdictCache(small_disk / "verdicts.sqlite")
    assert again.get(b"after") == (1, "")
    again.close()


@pytest.mark.parametrize("content", [b"this is no database at all " * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_corrupt_file_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "verdicts.sqlite"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"verdicts\.sqlite cannot be used: .* delete it"):
        SqliteVerdictCache(path)
    assert path.read_bytes() == content


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
    with pytest.raises(StoreError, match="is a database, and no verdict cache"):
        SqliteVerdictCache(path)
    path.unlink()
    SqliteVerdictCache(path).close()
    with sqlite3.connect(path) as ours:
        ours.execute("PRAGMA user_version = 9")
    with pytest.raises(StoreError, match="has format 9, and this version of Podium reads 1"):
        SqliteVerdictCache(path)


def test_a_folder_that_cannot_be_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be opened"):
        SqliteVerdictCache(tmp_path / "file" / "verdicts.sqlite")


async def test_the_same_question_is_paid_once(tmp_path: Path) -> None:
    cache = SqliteVerdictCache(tmp_path / "verdicts.sqlite")
    chat = ScriptedChat(saying("[3] > [1] > [2]"))
    judge = ChatJudge(chat, load("rank-vicuna"), cache=cache)
    paid = await ruled(judge, [Order((2, 0, 1))])
    cache.flush()
    # Another request, whose pool stands in another order: the words are what counts.
    free = await ruled(judge, [Order((0, 1, 2))], case_of("gamma", "alpha", "beta"))
    assert free.answers == [(2, 0, 1)]
    assert paid.answers == [(1, 2, 0)]
    assert free.usage == Usage(cache_hits=1)
    assert free.rulings[0].note == "[3] > [1] > [2]"
    assert len(chat.calls) == 1
    cache.close()


async def test_another_model_prompt_parameter_or_text_is_another_question(tmp_path: Path) -> None:
    cache = SqliteVerdictCache(tmp_path / "verdicts.sqlite")

    async def asked(**more: object) -> int:
        chat = ScriptedChat(lambda call: "[1] > [2]")
        chat.name = str(more.get("name", "scripted"))
        chat.revision = str(more.get("revision", "1"))
        chat.variant = str(more.get("variant", ""))
        settings = ChatSettings(temperature=float(str(more.get("temperature", 0))))
        judge = ChatJudge(chat, load(str(more.get("prompt", "rank-vicuna"))), settings=settings, cache=cache)
        case = case_of("alpha", str(more.get("text", "beta")), query=str(more.get("query", "why")))
        await ruled(judge, [Order((0, 1))], case)
        return len(chat.calls)

    assert await asked() == 1
    assert await asked() == 0
    for other in ("name", "revision", "variant", "text", "query"):
        assert await asked(**{other: "other"}) == 1
    assert await asked(prompt="rank-zephyr") == 1
    assert await asked(temperature=0.5) == 1
    cache.close()


async def test_what_could_not_be_read_is_asked_again(tmp_path: Path) -> None:
    cache = SqliteVerdictCache(tmp_path / "verdicts.sqlite")
    chat = ScriptedChat(saying("hm", "B"))
    judge = ChatJudge(chat, load("pairwise"), cache=cache)
    assert (await ruled(judge, [Prefer(0, 1)])).answers == [0.5]
    assert (await ruled(judge, [Prefer(0, 1)])).answers == [0.0]
    assert (await ruled(judge, [Prefer(0, 1)])).usage.cache_hits == 1
    score = ChatJudge(ScriptedChat(saying("50")), load("score-text"), cache=cache)
    assert [(await ruled(score, [Grade(0)], ABC)).answers for _ in range(2)] == [[50.0], [50.0]]
    cache.close()
