"""An OpenAI-compatible endpoint that answers with the recorded replies of real rankers.

    python -m podium_evals.replay --recording rank_vicuna_7b_dl19_bm25 --port 0

It knows a window by what stands in the prompt (the query, and behind each label the beginning of a passage), not by how
the prompt is framed, so that any listwise prompt can be tried against any recording. `GET /stats` counts the hits and
the misses; a window that nobody recorded is a 404.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from typing import Any

import ftfy

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
LABEL = re.compile(r"\[(\d{1,3})\]\s*(?=\S)")

# Of a passage, in letters and digits: enough to tell neighbours of one document apart, less than any window cuts to.
COMPARED = 400
# Letters that two texts may share by chance behind the end of the shorter one.
CHANCE = 3
# A shorter beginning is not taken for a passage, unless the passage is that short.
BEGINNING = 20


def letters(text: str) -> str:
    """Return what hardly any cleaning changes: ASCII letters and digits, in lower case."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def variants(text: str) -> frozenset[str]:
    """Return the letters of a text as it is, and as it is when its broken characters are mended."""
    return frozenset({letters(text), letters(ftfy.fix_text(text))})


@dataclass(frozen=True, slots=True)
class Window:
    """A recorded call."""

    docids: tuple[str, ...]
    reply: str
    number: int


@dataclass(frozen=True, slots=True)
class Query:
    """A query with the texts of its list and the windows that were recorded over it."""

    qid: str
    texts: frozenset[str]
    passages: Mapping[str, frozenset[str]]
    windows: tuple[Window, ...]


@dataclass(slots=True)
class Recording:
    """All windows of one ranker, and how many of them were asked for."""

    name: str
    queries: tuple[Query, ...]
    hits: int = 0
    misses: int = 0
    asked: Counter[tuple[str, int]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def load(cls, recording: Path, lists: Path) -> Recording:
        """Read a recording, and the lists that it was made on."""
        texts = {row["qid"]: {c["docid"]: variants(c["text"]) for c in row["candidates"]} for row in rows(lists)}
        windows: dict[str, list[Window]] = {}
        queries: dict[str, str] = {}
        for row in rows(recording):
            queries[row["qid"]] = row["query"]
            windows.setdefault(row["qid"], []).append(Window(tuple(row["docids"]), row["reply"], row["window"]))
        return cls(
            recording.name.removesuffix(".jsonl.gz"),
            tuple(Query(qid, variants(text), texts[qid], tuple(windows[qid])) for qid, text in queries.items()),
        )

    def reply(self, messages: Sequence[Mapping[str, Any]]) -> str | None:
        """Return the recorded reply to a prompt, or None."""
        text = "\n".join(str(message.get("content") or "") for message in messages)
        found = self._find(text)
        with self._lock:
            if found is None:
                self.misses += 1
                return None
            query, window = found
            self.hits += 1
            self.asked[query.qid, window.number] += 1
        return window.reply

    def stats(self) -> dict[str, int]:
        """Return the counts."""
        with self._lock:
            windows = sum(len(query.windows) for query in self.queries)
            return {"hits": self.hits, "misses": self.misses, "windows_asked": len(self.asked), "windows": windows}

    def _find(self, text: str) -> tuple[Query, Window] | None:
        plain = letters(text)
        asked = [query for query in self.queries if any(text in plain for text in query.texts)]
        # Longest first: one query may be a part of another.
        for query in sorted(asked, key=lambda query: -max(map(len, query.texts))):
            places = _places(text, query.passages)
            for window in query.windows:
                if len(window.docids) == len(places) and all(map(_among, window.docids, places)):
                    return query, window
        return None


def _among(docid: str, place: frozenset[str]) -> bool:
    return docid in place


def _places(text: str, passages: Mapping[str, frozenset[str]]) -> list[frozenset[str]]:
    """Return for each label from 1 up the passages that may stand behind it: several where texts begin alike."""
    behind: dict[int, list[str]] = {}
    for match in LABEL.finditer(text):
        # What is not a letter makes up less than two thirds of any passage.
        behind.setdefault(int(match[1]), []).append(letters(text[match.end() : match.end() + 3 * COMPARED])[:COMPARED])
    places: list[frozenset[str]] = []
    while found := behind.get(len(places) + 1):
        scores: dict[str, int] = {}
        whole: set[str] = set()
        for docid, written in passages.items():
            for passage, beginning in product(written, found):
                shared = _shared(passage, beginning)
                if shared >= max(min(BEGINNING, len(passage)), scores.get(docid, 1)):
                    scores[docid] = shared
                    if shared == min(len(passage), COMPARED):
                        whole.add(docid)
        if not scores:
            break
        best = max(scores.values())
        # One that stands there from its first letter to its last may be it, even where a longer one goes on alike.
        places.append(frozenset(docid for docid, shared in scores.items() if shared >= best - CHANCE or docid in whole))
    return places


def _shared(passage: str, beginning: str) -> int:
    """Return the length of the common beginning."""
    limit = min(len(passage), len(beginning), COMPARED)
    if passage[:limit] == beginning[:limit]:
        return limit
    low = 0
    while limit - low > 1:
        middle = (low + limit) // 2
        if passage[:middle] == beginning[:middle]:
            low = middle
        else:
            limit = middle
    return low


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one packet: in two, the second one waits for the acknowledgement of the first.
    wbufsize = 1 << 16
    recording: Recording
    latency_s: float = 0.0

    def do_GET(self) -> None:
        match self.path.rstrip("/"):
            case "/stats":
                self._answer(HTTPStatus.OK, self.recording.stats())
            case "/v1/models":
                model = {"id": self.recording.name, "object": "model", "owned_by": "recording"}
                self._answer(HTTPStatus.OK, {"object": "list", "data": [model]})
            case _:
                self._refuse(HTTPStatus.NOT_FOUND, f"there is nothing at {self.path}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path.rstrip("/") != "/v1/chat/completions":
            self._refuse(HTTPStatus.NOT_FOUND, f"there is nothing at {self.path}")
            return
        try:
            asked = json.loads(body)
            messages = asked["messages"]
        except (ValueError, KeyError, TypeError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, f"no chat completion: {error!r}")
            return
        # What shows no passage is no window, but somebody who tries what this endpoint can do: little, and politely.
        shown = any(LABEL.search(str(message.get("content") or "")) for message in messages)
        reply = self.recording.reply(messages) if shown else "OK"
        if self.latency_s:
            time.sleep(self.latency_s)
        if reply is None:
            self._refuse(HTTPStatus.NOT_FOUND, "this window was not recorded")
            return
        prompt = sum(len(str(message.get("content") or "")) for message in messages)
        usage = {"prompt_tokens": -(-prompt // 4), "completion_tokens": -(-len(reply) // 3)}
        self._answer(
            HTTPStatus.OK,
            {
                "id": f"replay-{self.recording.hits}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": asked.get("model") or self.recording.name,
                "choices": [
                    {"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"},
                ],
                "usage": usage | {"total_tokens": sum(usage.values())},
            },
        )

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self._answer(status, {"error": {"message": message, "type": "replay", "code": status.value}})

    def _answer(self, status: HTTPStatus, data: Mapping[str, Any]) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name is the base class's
        pass


class _Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


def serve(recording: Recording, *, port: int = 0, latency_s: float = 0.0) -> ThreadingHTTPServer:
    """Return a server that is bound and not running yet; `server_address` has its port."""
    handler = type("Handler", (_Handler,), {"recording": recording, "latency_s": latency_s})
    return _Server(("127.0.0.1", port), handler)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="podium_evals.replay", description="Serve recorded replies of real rankers.")
    parser.add_argument("--recording", required=True, help="a name in shared/data/recordings, or a path")
    parser.add_argument("--lists", type=Path, default=DATA / "eval" / "dl19_bm25_top100.jsonl.gz")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency-ms", type=float, default=0.0, help="wait that long before each reply")
    arguments = parser.parse_args()
    path = Path(arguments.recording)
    if not path.exists():
        path = DATA / "recordings" / f"{arguments.recording}.jsonl.gz"
    server = serve(Recording.load(path, arguments.lists), port=arguments.port, latency_s=arguments.latency_ms / 1000)
    print(f"listening on 127.0.0.1:{server.server_address[1]}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print(json.dumps(server.RequestHandlerClass.recording.stats()))  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
