"""The command line as people use it: a process, its exit code, and what it says."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Ended = subprocess.CompletedProcess[str]
Podium = Callable[..., Ended]


@pytest.fixture
def podium(tmp_path: Path) -> Podium:
    """Runs `podium` with these arguments, in a folder of its own."""

    def run(*arguments: object, stdin: str | None = None, timeout: float = 60) -> Ended:
        return subprocess.run(
            [sys.executable, "-m", "podium_server", *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=tmp_path,
        )

    return run


def a_list(qid: str | int, n: int) -> dict[str, Any]:
    return {
        "qid": qid,
        "query": f"what is {qid}",
        "candidates": [{"docid": f"{qid}-{i}", "text": f"passage {i} about {qid}"} for i in range(n)],
    }


def write_lists(path: Path, lists: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in lists), "utf-8")
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


class Endpoint:
    """A chat endpoint that puts every window in its reverse order, after a while."""

    def __init__(self, latency_s: float) -> None:
        self.calls = 0
        self.at_once = 0
        self.at_once_most = 0
        self.latency_s = latency_s
        self.refuses_after: int | None = None
        endpoint, lock = self, threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 1 << 16

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    endpoint.at_once += 1
                    endpoint.at_once_most = max(endpoint.at_once_most, endpoint.at_once)
                time.sleep(endpoint.latency_s)
                if endpoint.refuses_after is not None and endpoint.calls >= endpoint.refuses_after:
                    with lock:
                        endpoint.at_once -= 1
                    self.send_response(401)
                    self.send_header("content-length", "0")
                    self.end_headers()
                    return
                labels = str(asked.get("messages")).count("\\n[")
                with lock:
                    endpoint.at_once -= 1
                    endpoint.calls += labels > 0  # what is no window tries out what we can do
                reply = " > ".join(f"[{label}]" for label in range(max(labels, 1), 0, -1))
                message = {"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}
                usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
                body = json.dumps(
                    {"id": "1", "object": "chat.completion", "created": 1, "model": "toy"}
                    | {"choices": [message], "usage": usage}
                ).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 256
            daemon_threads = True

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def config(self, path: Path, **model: object) -> Path:
        """Write a configuration whose pipeline `judged` asks this endpoint."""
        more = "".join(f"{key} = {json.dumps(value)}\n" for key, value in model.items())
        path.write_text(f"""
[models.toy]
backend = "openai"
base_url = "http://127.0.0.1:{self.server.server_address[1]}/v1"
model = "toy"
{more}
prices = {{ prompt_usd_per_mtok = 1.0, output_usd_per_mtok = 2.0 }}
[pipelines.judged]
stages = [{{ strategy = "sliding-window", model = "toy", prompt = "rank-vicuna" }}]
""")
        return path


@pytest.fixture
def endpoint() -> Iterator[Callable[[float], Endpoint]]:
    started: list[Endpoint] = []

    def start(latency_s: float = 0.0) -> Endpoint:
        started.append(Endpoint(latency_s))
        return started[-1]

    yield start
    for one in started:
        one.server.shutdown()
        one.server.server_close()
