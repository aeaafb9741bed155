"""The log of rankings: who got which order, one JSON line a request, for `podium eval ab` and `podium eval drift`.

A thread writes it, so that no request waits for a disk: what does not fit into its queue is dropped and counted. A line
has ids of documents, and fingerprints of the query and of the key; a text only where the configuration asks for it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from podium_server.accounting.usage import Usage
from podium_server.ranking.request import Outcome, RankRequest

log = logging.getLogger(__name__)

FORMAT = 1
RECALL = "recall"

_BATCH = 256
"""Lines that are written at a time, under one lock."""
_CLOSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Ranked:
    """What one pipeline made of a request, cut to the places that a line has.

    Args:
        pipeline: its name.
        ids: of the documents, best first; `#3` for the fourth of a request whose documents have no ids.
        places: where they stood in the first-stage order, from 0.
        scores: likewise; None for those that have none.
        score_kind: of all scores.
        completion: `complete`, or why it is not.
        wall_s: from the first question to the order, recall not included.
        usage: of the ranking; recall's is not in it.

    """

    pipeline: str
    ids: tuple[str, ...]
    places: tuple[int, ...]
    scores: tuple[float | None, ...]
    score_kind: str
    completion: str
    wall_s: float
    usage: Usage

    @classmethod
    def of(cls, outcome: Outcome, request: RankRequest, wall_s: float, places: int) -> Ranked:
        """Return the first `places` of an outcome."""
        order = outcome.order[:places]
        usage = Usage()
        for account in outcome.ledger:
            if account.stage != RECALL:
                usage = usage + account.usage
        return cls(
            outcome.pipeline,
            ids_at(request, order),
            tuple(order),
            tuple(outcome.scores[place] for place in order),
            outcome.score_kind.value,
            outcome.completion.value,
            wall_s,
            usage,
        )

    def line(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "pipeline": self.pipeline,
            "ids": self.ids,
            "places": self.places,
            "scores": None if all(score is None for score in self.scores) else self.scores,
            "score_kind": self.score_kind,
            "completion": self.completion,
            "wall_s": round(self.wall_s, 6),
            "calls": self.usage.calls,
            "prompt_tokens": self.usage.prompt_tokens,
            "output_tokens": self.usage.output_tokens,
            "cost_nano_usd": self.usage.cost_nano_usd,
        }


def ids_at(request: RankRequest, places: Sequence[int]) -> tuple[str, ...]:
    """Return the ids of candidates, or `#` and the place where one has none."""
    candidates = request.candidates
    return tuple(candidates[place].id or f"#{place}" for place in places)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line.

    Args:
        time_s: seconds since 1970.
        request_id: of the call; with `/` and the item's id in a batch.
        query: its fingerprint.
        candidates: of the request.
        rankings: by arm; of those that have one.
        shown: the arm whose order the caller got, or `interleaved`.
        experiment: empty outside experiments, and so are mode, arm and key.
        mode: `served`, `shadow` or `interleaved`.
        arm: to which the key was assigned.
        key: its fingerprint.
        share: of the keys that are the challenger's.
        missing: why an arm that should have ranked did not: by arm, `busy`, `late`, or the reason of an error.
        interleaved: ids as they were shown.
        teams: `I` and `C` for each of them: whose pick it was.
        text: the query itself, where that is asked for.

    """

    time_s: float
    request_id: str
    query: str
    candidates: int
    rankings: Mapping[str, Ranked]
    shown: str
    experiment: str = ""
    mode: str = ""
    arm: str = ""
    key: str = ""
    share: float = 0.0
    missing: Mapping[str, str] = field(default_factory=dict)
    interleaved: tuple[str, ...] = ()
    teams: str = ""
    text: str | None = None

    def line(self) -> bytes:
        """Return the line, with its end."""
        made: dict[str, Any] = {
            "format": FORMAT,
            "time": round(self.time_s, 3),
            "request_id": self.request_id,
            "experiment": self.experiment,
            "mode": self.mode,
            "arm": self.arm,
            "share": self.share,
            "key": self.key,
            "query": self.query,
            "candidates": self.candidates,
            "shown": self.shown,
            "rankings": {arm: ranked.line() for arm, ranked in self.rankings.items()},
        }
        if self.missing:
            made["missing"] = dict(self.missing)
        if self.interleaved:
            made |= {"interleaved": self.interleaved, "teams": self.teams}
        if self.text is not None:
            made["text"] = self.text
        return json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"


class RankingLog:
    """Writes entries to a file that is rotated by size. `close` at the end.

    Several processes may write to the same file: a lock beside it (`<name>.lock`) is held for each batch of lines.

    Args:
        path: of the newest file; older ones are `<name>.1`, `<name>.2`, ….
        file_bytes: at which a file is put aside.
        files: kept, the newest included. What is older is deleted.
        queue_entries: that wait for the disk at most; more are dropped.

    """

    def __init__(self, path: Path, *, file_bytes: int, files: int, queue_entries: int) -> None:
        self.path = path
        self.written = 0
        self.dropped = 0
        """Entries for which there was no place in the queue."""
        self.lost = 0
        """Entries that the disk did not take."""
        self._file_bytes = file_bytes
        self._files = files
        self._queue: queue.Queue[Entry | None] = queue.Queue(queue_entries)
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._closed = False

    def put(self, entry: Entry) -> None:
        """Have an entry written, soon. Never waits, and never raises."""
        if self._closed:
            self.dropped += 1
            return
        if self._thread is None:
            self._start()
        try:
            self._queue.put_nowait(entry)
        except queue.Full:
            if not self.dropped:
                log.warning("the log of rankings cannot keep up; entries are dropped", extra={"path": str(self.path)})
            self.dropped += 1

    def close(self) -> None:
        """Write what waits, for a few seconds at most, and stop."""
        self._closed = True
        if self._thread is None:
            return
        try:
            self._queue.put(None, timeout=_CLOSE_S)
            self._thread.join(_CLOSE_S)
        except queue.Full:
            pass
        left = self._queue.qsize()
        if left:
            self.dropped += left
        if self.dropped or self.lost:
            log.warning(
                "the log of rankings is not whole",
                extra={"path": str(self.path), "dropped": self.dropped, "lost": self.lost},
            )

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_all, name="ranking log", daemon=True)
                self._thread.start()

    def _write_all(self) -> None:
        ended = False
        while not ended:
            batch = [self._queue.get()]
            while len(batch) < _BATCH and not self._queue.empty():
                batch.append(self._queue.get())
            ended = None in batch
            entries = [entry for entry in batch if entry is not None]
            if entries:
                self._write(entries)

    def _write(self, entries: Sequence[Entry]) -> None:
        try:
            data = b"".join(entry.line() for entry in entries)
            with self._locked():
                self._rotate(len(data))
                with self.path.open("ab", buffering=0) as file:
                    _append(file.fileno(), data)
        except Exception as error:  # noqa: BLE001  # whatever it is, requests go on, and the count says it
            if not self.lost:
                log.warning(
                    "the log of rankings cannot be written", extra={"path": str(self.path), "error": str(error)}
                )
            self.lost += len(entries)
        else:
            self.written += len(entries)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(f"{self.path.name}.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield  # closing it gives the lock back

    def _rotate(self, coming: int) -> None:
        """Put the file aside where these bytes would make it too long."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if not size or size + coming <= self._file_bytes:
            return
        for number in range(self._files - 1, 0, -1):
            older = self._aside(number)
            newer = self._aside(number - 1) if number > 1 else self.path
            if newer.exists():
                newer.replace(older)
        if self._files == 1:
            self.path.unlink()

    def _aside(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")


def _append(descriptor: int, data: bytes) -> None:
    """Write all of it, or nothing: a disk that is full in the middle of a line leaves no half of one."""
    before = os.fstat(descriptor).st_size
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]  # a raw write may take a part only
    except OSError:
        os.ftruncate(descriptor, before)
        raise
