"""SIGTERM to a real process: what runs over HTTP ends, what comes is sent elsewhere, connections end, and it stops."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.rest.drained_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as started:
        try:
            yield started
        finally:
            started.kill()


def body(model: str) -> dict[str, Any]:
    return {"model": model, "query": "q", "documents": ["a", "b"]}


async def opened(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a connection that stays, on which one request was answered."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    await ask(reader, writer)
    return reader, writer


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, str]:
    """Return status and head of the answer to a request on a connection."""
    content = json.dumps(body("identity")).encode()
    head = (
        f"POST /v2/rerank HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n"
    )
    writer.write(head.encode() + b"\r\n" + content)
    said = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = next(line for line in said.split("\r\n") if line.startswith("content-length:")).partition(":")[2]
    await reader.readexactly(int(length))
    return int(said.split(" ")[1]), said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_running_requests_end_and_new_ones_are_sent_elsewhere(
    process: subprocess.Popen[str], number: signal.Signals
) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    url = process.stdout.readline().strip()
    idle, used = await opened(url), await opened(url)
    async with httpx2.AsyncClient(base_url=url, timeout=30) as http:
        # It asks one question at least, and is at work when the signal comes.
        running = asyncio.create_task(http.post("/v2/rerank", json=body("points")))
        stream = asyncio.create_task(http.post("/podium/v1/streamRerank", json={"request": {**native(), "seed": 1}}))
        await asyncio.sleep(0.5)
        process.send_signal(number)
        await asyncio.sleep(0.3)
        refused = await http.post("/v2/rerank", json=body("identity"))
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["connection"] == "close"
        assert "another one" in refused.json()["message"]
        # Whoever comes again over a connection of before is told so, and sent away with it.
        status, head = await ask(*used)
        assert status == 503
        assert "connection: close" in head
        assert await asyncio.wait_for(used[0].read(), 5) == b""
        assert (await http.get("/health")).status_code == 503
        answer = await running
        assert answer.status_code == 200
        assert len(answer.json()["results"]) == 2
        lines = (await stream).text.splitlines()
        assert len(json.loads(lines[-1])["response"]["ranking"]) == 2
    # One that nobody uses any more ends with the server.
    assert await asyncio.wait_for(idle[0].read(), 10) == b""
    assert await asyncio.to_thread(process.wait, 10) == 0
    assert process.stdout.read() == "stopped\n"
    assert process.stderr.read() == ""
    for _, writer in (idle, used):
        writer.close()


def native() -> dict[str, Any]:
    return {"query": "q", "documents": [{"text": "a"}, {"text": "b"}], "pipeline": "points"}
