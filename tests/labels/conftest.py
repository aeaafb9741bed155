"""A teacher that knows the truth: every passage says what it is worth. How far it looks at places is up to us."""

from __future__ import annotations

import http.server
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from podium_server.cli import app


@dataclass(frozen=True)
class Ended:
    returncode: int
    stdout: str
    stderr: str


Podium = Callable[..., Ended]
Answer = Callable[[str], str]

WORTH = re.compile(r"worth (\d+)")


def by_worth(place_counts: float = 0.0) -> Answer:
    """Answers windows and pairs by what the passages are worth, plus so much for every place nearer to the front."""

    def answer(text: str) -> str:
        if "Passage A or Passage B" in text:
            a, b = (int(worth) for worth in WORTH.findall(text)[-2:])
            return "Passage A" if a + place_counts >= b else "Passage B"
        shown = re.findall(r"^\[(\d+)\].*?worth (\d+)", text, re.MULTILINE)
        best = sorted(shown, key=lambda one: -(int(one[1]) - place_counts * int(one[0])))
        return " > ".join(f"[{label}]" for label, _ in best) or "OK"

    return answer


class Teacher:
    """An OpenAI-compatible endpoint on a real socket."""

    def __init__(self, answer: Answer, latency_s: float = 0.0) -> None:
        self.asked: list[str] = []
        teacher, lock = self, threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 1 << 16

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                text = "\n".join(str(message["content"]) for message in asked["messages"])
                if "document" in text or "assage" in text:  # what is neither tries out what we can do
                    with lock:
                        teacher.asked.append(text)
                time.sleep(latency_s)
                message = {"role": "assistant", "content": answer(text)}
                self.reply(
                    {
                        "id": "1",
                        "object": "chat.completion",
                        "created": 1,
                        "model": "simulated-2026-11",
                        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
                    }
                )

            def do_GET(self) -> None:
                self.reply({"object": "list", "data": [{"id": "simulated", "object": "model"}]})

            def reply(self, data: dict[str, Any]) -> None:
                body = json.dumps(data).encode()
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

    def config(self, path: Path, *, capabilities: str = 'capabilities = ["text"]') -> Path:
        """Write a configuration with a listwise and a pairwise pipeline that ask this teacher."""
        path.write_text(f"""
[models.judge]
backend = "openai"
base_url = "http://127.0.0.1:{self.server.server_address[1]}/v1"
model = "simulated"
{capabilities}
prices = {{ prompt_usd_per_mtok = 1.0, output_usd_per_mtok = 2.0 }}
[pipelines.listwise]
stages = [{{ strategy = "sliding-window", model = "judge", prompt = "rank-vicuna", size = 4, stride = 2 }}]
[pipelines.pairwise]
stages = [{{ strategy = "pairwise-round-robin", model = "judge", prompt = "pairwise" }}]
""")
        return path


@pytest.fixture
def teacher() -> Iterator[Callable[..., Teacher]]:
    started: list[Teacher] = []

    def start(answer: Answer | None = None, latency_s: float = 0.0) -> Teacher:
        started.append(Teacher(answer or by_worth(), latency_s))
        return started[-1]

    yield start
    for one in started:
        one.server.shutdown()
        one.server.server_close()


@pytest.fixture
def podium(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Podium:
    """Runs `podium` with these arguments, in a folder of its own; in this process, where a start costs nothing."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        code = app.run([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return run


def a_list(qid: str, worths: list[int]) -> dict[str, Any]:
    return {
        "qid": qid,
        "query": f"what is {qid}",
        "candidates": [{"docid": f"{qid}-{i}", "text": f"It is worth {worth}."} for i, worth in enumerate(worths)],
    }


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
