"""`kill -9` during a streamed upsert, over the wire: whatever a call acknowledged is there afterwards."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import podium_client


@contextlib.contextmanager
def served(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `podium serve` and yield its process and address; it is gone at the end, whatever happens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "podium_server", "serve", "--port", "0", "--data-dir", str(data_dir)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), line
        yield process, line.removeprefix("listening on ").strip()
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("acknowledged_before_the_kill", [24, 56])
def test_an_acknowledged_upsert_survives_kill_9(tmp_path: Path, acknowledged_before_the_kill: int) -> None:
    acknowledged: list[int] = []
    enough = threading.Event()

    def count(done: podium_client.Upserted) -> None:
        acknowledged.append(done.acknowledged)
        if done.acknowledged >= acknowledged_before_the_kill:
            enough.set()

    def write(address: str) -> None:
        with podium_client.Client(address) as client, contextlib.suppress(podium_client.PodiumError):
            client.create_collection("notes")
            documents = ({"id": f"n{i}", "text": f"the note of number {i}"} for i in range(100_000))
            client.upsert("notes", documents, call_documents=8, on_acknowledged=count)

    with served(tmp_path) as (process, address):
        writer = threading.Thread(target=write, args=(address,))
        writer.start()
        assert enough.wait(60)
        time.sleep(0.01)  # into the middle of the next call
        process.send_signal(signal.SIGKILL)
        writer.join(60)
    kept = acknowledged[-1]
    assert kept >= acknowledged_before_the_kill

    with served(tmp_path) as (_, address), podium_client.Client(address) as client:
        fetched = client.get("notes", [f"n{i}" for i in range(kept)])
        assert [document.id for document in fetched.documents] == [f"n{i}" for i in range(kept)]
        found = client.search("notes", f"note number {kept - 1}", pipeline="recall", top_n=5)
        assert len(found.results) == 5


def test_a_second_server_on_the_same_store_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with served(tmp_path):
        second = subprocess.run(
            [sys.executable, "-m", "podium_server", "serve", "--port", "0", "--data-dir", str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert second.returncode != 0
    assert str(tmp_path) in second.stderr
    assert "Traceback" not in second.stderr
