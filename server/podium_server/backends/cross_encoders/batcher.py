"""One queue in front of one cross-encoder, and the threads that empty it: batches mix the pairs of all requests.

What is taken next is decided in `queue`, which is pure. Here are the lock, the clock and the threads. A batch costs the
event loop one call for each request in it, and a waiting request one event, however many pairs it has.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from podium_server.backends.cross_encoders.cross_encoder import CrossEncoder, Pair
from podium_server.backends.cross_encoders.place import Abandoned, Part, Place
from podium_server.backends.cross_encoders.queue import (
    Batch,
    Budget,
    Lengths,
    Queue,
    Share,
    ahead,
    drop,
    expired,
    put,
    take,
)
from podium_server.errors import (
    BackendDown,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    PodiumError,
    Unavailable,
)

logger = logging.getLogger(__name__)

_QUANTUM_TOKENS = 8_192
"""Some sixty documents. Requests up to it are served in the order in which they came: among them, sharing would make
everybody late. A smaller quantum lets requests of twenty documents pass those of a hundred when the model is busy; a
larger one lets a huge request be in their way for longer."""
_RETRY_S_MIN = 0.1
_RATE_FOLLOWS = 0.1
"""How much of a new measurement of the speed goes into the old one."""


@dataclass(frozen=True, slots=True)
class State:
    """A batcher at one moment, and its counts since it was made.

    Args:
        requests: that wait, wholly or in part.
        pairs: that wait.
        tokens: that wait.
        oldest_s: since the longest waiting of these requests came.
        under_way: pairs at work.
        tokens_per_s: of all lanes, without padding, as measured last.
        refused: requests that found the queue full.
        dropped: pairs that nobody wanted any more before they were scored.
        failed: pairs whose batch failed.
        scored: pairs.
        batches: that were scored.
        scored_tokens: in them, without padding.
        padded_tokens: in them, with it.
        busy_s: of all lanes, added up.

    """

    requests: int
    pairs: int
    tokens: int
    oldest_s: float
    under_way: int
    tokens_per_s: float
    refused: int
    dropped: int
    failed: int
    scored: int
    batches: int
    scored_tokens: int
    padded_tokens: int
    busy_s: float


@dataclass(slots=True)
class _Counts:
    refused: int = 0
    dropped: int = 0
    failed: int = 0
    scored: int = 0
    batches: int = 0
    scored_tokens: int = 0
    padded_tokens: int = 0
    busy_s: float = 0.0


class Batcher:
    """Scores pairs of many requests with one model.

    Args:
        encoder: the model; it is the batcher's own from now on, and closed with it.
        wait_s_max: a request is refused if it would stand that long behind others (or as long as it takes itself,
            where that is longer) before its first pair.
        pairs_max: that wait at the same time, of all requests: what bounds the memory.

    """

    def __init__(self, encoder: CrossEncoder, *, wait_s_max: float = 2.0, pairs_max: int = 50_000) -> None:
        if wait_s_max <= 0 or pairs_max < 1:
            raise ValueError(f"wait_s_max is {wait_s_max} and pairs_max {pairs_max}: above 0, and 1 at least")
        self.encoder = encoder
        self.wait_s_max = wait_s_max
        self.pairs_max = pairs_max
        capacity = encoder.capacity
        self._lanes = capacity.lanes
        self._budget = Budget(capacity.padded_tokens, capacity.pairs)
        self._tokens_per_s = capacity.tokens_per_s
        self._queue = Queue(_QUANTUM_TOKENS)
        self._places: dict[int, Place] = {}
        self._coming: dict[int, Place] = {}
        """Admitted, and not put in the queue yet: their tokens are being made."""
        self._under_way_tokens = self._under_way_pairs = 0
        self._counts = _Counts()
        self._last_request = 0
        self._closed = False
        self.lock = threading.Lock()
        self._changed = threading.Condition(self.lock)
        self._threads = [
            threading.Thread(target=self._work, name=f"model-{encoder.name}-{lane}", daemon=True)
            for lane in range(capacity.lanes)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def tokens_per_s(self) -> float:
        """Of all lanes together, without padding, as measured last."""
        return self._tokens_per_s

    def admit(self, tokens: int, *, pairs: int, deadline_at: float | None = None) -> Place:
        """Return a place in the queue for a request of about so many tokens, to be used in a `with`; or refuse.

        Args:
            tokens: of all its pairs, about: they need not be made yet.
            pairs: at least as many.
            deadline_at: `time.monotonic()` seconds after which its scores are of no use.

        Raises:
            Overloaded: too much waits already, or so much that nothing could be begun before the deadline.
            DeadlineExceeded: it has passed already.
            InvalidRequest: the request alone has more pairs than may wait.
            Unavailable: the model is being closed.

        """
        with self.lock:
            self._check_open()
            left_s = math.inf if deadline_at is None else deadline_at - time.monotonic()
            if left_s <= 0:
                raise DeadlineExceeded(f"the deadline passed before {pairs} documents came to their model")
            self._check_room(pairs)
            self._check_wait(tokens, left_s)
            self._last_request += 1
            place = Place(self, self._last_request, tokens, pairs, deadline_at, asyncio.get_running_loop())
            self._coming[place.number] = place
            return place

    def state(self) -> State:
        """Return what there is to tell of now."""
        with self.lock:
            queue, counts = self._queue, self._counts
            oldest = min((self._places[w.request].put_at for w in queue.line), default=None)
            return State(
                requests=len(queue.line),
                pairs=queue.pairs,
                tokens=queue.tokens,
                oldest_s=0.0 if oldest is None else time.monotonic() - oldest,
                under_way=self._under_way_pairs,
                tokens_per_s=self._tokens_per_s,
                refused=counts.refused,
                dropped=counts.dropped,
                failed=counts.failed,
                scored=counts.scored,
                batches=counts.batches,
                scored_tokens=counts.scored_tokens,
                padded_tokens=counts.padded_tokens,
                busy_s=counts.busy_s,
            )

    def close(self) -> None:
        """Fail what waits, let what is at work end, and free the model. Blocks."""
        with self.lock:
            already, self._closed = self._closed, True
            waiting = [self._places[entry.request] for entry in self._queue.line]
            for place in waiting:
                place.error = self._closing()
            self._drop({place.number for place in waiting})
            self._changed.notify_all()
        for place in waiting:
            place.wake()
        for thread in self._threads:
            thread.join()
        if not already:
            self.encoder.close()

    # --- admission ----------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise self._closing()

    def _closing(self) -> Unavailable:
        return Unavailable(f"the model {self.encoder.name!r} is being closed; another server will answer")

    def _check_room(self, pairs: int, *, of: Place | None = None) -> None:
        if pairs > self.pairs_max:
            raise InvalidRequest(
                "documents",
                f"make {pairs:,} pairs for the model {self.encoder.name!r}, and limits.cross_encoder_pairs is "
                f"{self.pairs_max:,}",
                metadata={"limit": "cross_encoder_pairs"},
            )
        waiting = self._queue.pairs + sum(place.pairs for place in self._coming.values() if place is not of)
        if waiting + pairs > self.pairs_max:
            self._refuse(
                f"{waiting:,} pairs wait for it, and with {pairs:,} more they would be above "
                f"limits.cross_encoder_pairs, which is {self.pairs_max:,}",
                (waiting + pairs - self.pairs_max) / max(waiting, 1) * self._queue.tokens / self._tokens_per_s,
                "cross_encoder_pairs",
            )

    def _check_wait(self, tokens: int, left_s: float) -> None:
        wait_s = self._wait_s(tokens)
        # Whoever is at work for a minute anyway may wait for a minute: his place is behind everybody smaller.
        wait_s_max = max(self.wait_s_max, tokens / self._tokens_per_s)
        if wait_s > wait_s_max:
            self._refuse(
                f"{wait_s:.1f} s of work stand before this request, and limits.cross_encoder_wait_s is "
                f"{self.wait_s_max:g}",
                wait_s - self.wait_s_max / 2,
                "cross_encoder_wait_s",
            )
        if wait_s > left_s:
            self._refuse(
                f"{wait_s:.1f} s of work stand before this request, and its deadline is in {left_s:.1f} s",
                wait_s - left_s / 2,
            )

    def _wait_s(self, tokens: int) -> float:
        """Return the seconds of work that would be done before a request of so many tokens begins."""
        larger = max(tokens, self._queue.quantum)
        coming = sum(place.tokens for place in self._coming.values() if place.tokens <= larger)
        # What is at work is on average half done.
        before = ahead(self._queue, max(tokens, 1)) + coming + self._under_way_tokens / 2
        return before / self._tokens_per_s

    def _refuse(self, why: str, retry_after_s: float, limit: str = "") -> None:
        self._counts.refused += 1
        raise Overloaded(
            f"the model {self.encoder.name!r} is busy: {why}; try again later",
            retry_after_s=max(_RETRY_S_MIN, retry_after_s),
            metadata={"model": self.encoder.name} | ({"limit": limit} if limit else {}),
        )

    # --- called by places ---------------------------------------------------------------------------------------

    def enter(self, place: Place, pairs: Sequence[Pair]) -> None:
        """Put a place's pairs in the queue (see `Place.put`)."""
        lengths = Lengths.of([pair.tokens for pair in pairs])
        with self.lock:
            self._check_open()
            if place.number not in self._coming:
                return  # it was withdrawn while this thread sorted its pairs
            if len(pairs) > place.pairs:  # passages: more pairs than documents
                self._check_room(len(pairs), of=place)
            del self._coming[place.number]
            place.given = pairs
            place.left = len(pairs)
            place.put_at = place.idle_since = time.monotonic()
            self._places[place.number] = place
            self._queue = put(self._queue, place.number, lengths, deadline_at=place.deadline_at)
            self._changed.notify_all()

    def withdraw(self, place: Place) -> None:
        """Take back what waits, and forget the place (see `Place.__exit__`)."""
        with self.lock:
            self._coming.pop(place.number, None)
            if self._places.pop(place.number, None) is None:
                return
            place.gone = True
            if place.left:
                self._drop({place.number})
            place.abandoned = Abandoned(
                place.at_work_pairs, place.at_work_tokens, place.at_work_tokens / self._tokens_per_s
            )

    def _drop(self, gone: set[int]) -> None:
        before = self._queue.pairs
        self._queue = drop(self._queue, gone)
        self._counts.dropped += before - self._queue.pairs

    # --- the lanes' threads -------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (job := self._next()) is not None:
            error = self._tried(job)
            if error is None:
                continue
            if len(job.places) == 1:
                self._failed(job, error)
                continue
            # What one request sent must not fail those that happened to be in its batch: each is tried alone.
            for alone in job.apart():
                if (error := self._tried(alone)) is not None:
                    self._failed(alone, error)

    def _tried(self, job: _Job) -> Exception | None:
        """Score a batch and hand out the scores; return what went wrong instead."""
        began = time.monotonic()
        try:
            scores = self.encoder.score(job.pairs)
            if len(scores) != len(job.pairs):
                raise BackendDown(f"the model gave {len(scores)} scores for {len(job.pairs)} pairs")
        except Exception as error:  # noqa: BLE001  # whatever it is, this thread has others to serve
            return error
        self._scored(job, scores.tolist(), time.monotonic() - began)
        return None

    def _next(self) -> _Job | None:
        """Wait for a batch; None at the end."""
        with self._changed:
            while True:
                now = time.monotonic()
                # The place's own clock tells its caller; here it only must not cost anything any more.
                late = expired(self._queue, now)
                if late:
                    self._drop(set(late))
                batch, self._queue = take(self._queue, self._budget.evened(self._queue.tokens, self._lanes))
                if batch.shares:
                    return self._begun(batch, now)
                if self._closed:
                    return None
                self._changed.wait()

    def _begun(self, batch: Batch, now: float) -> _Job:
        job = _Job(batch, [self._places[share.request] for share in batch.shares])
        for share, place in job.parts:
            if not place.at_work_pairs:
                place.queue_s += now - place.idle_since
            place.at_work_pairs += len(share.places)
            place.at_work_tokens += share.tokens
        self._under_way_pairs += batch.pairs
        self._under_way_tokens += batch.tokens
        return job

    def _ended(self, job: _Job) -> None:
        now = time.monotonic()
        for share, place in job.parts:
            place.at_work_pairs -= len(share.places)
            place.at_work_tokens -= share.tokens
            place.idle_since = now
        self._under_way_pairs -= job.batch.pairs
        self._under_way_tokens -= job.batch.tokens

    def _scored(self, job: _Job, scores: list[float], took_s: float) -> None:
        batch, counts = job.batch, self._counts
        with self.lock:
            self._ended(job)
            counts.batches += 1
            counts.scored += batch.pairs
            counts.scored_tokens += batch.tokens
            counts.padded_tokens += batch.pairs * batch.longest
            counts.busy_s += took_s
            if 2 * batch.pairs * batch.longest >= self._budget.padded_tokens and took_s > 0:
                measured = batch.tokens / took_s * self._lanes
                self._tokens_per_s += _RATE_FOLLOWS * (measured - self._tokens_per_s)
            begin = 0
            for share, place in job.parts:
                end = begin + len(share.places)
                seconds = took_s * share.tokens / batch.tokens / self._lanes
                if not place.gone:
                    place.parts.append(Part(share.places, scores[begin:end], share.tokens, place.queue_s, seconds))
                place.queue_s = 0.0
                place.left -= len(share.places)
                begin = end
        for _, place in job.parts:
            place.wake()

    def _failed(self, job: _Job, error: Exception) -> None:
        name = self.encoder.name
        if not isinstance(error, PodiumError):
            logger.error("the model %s failed", name, exc_info=error)
        with self.lock:
            self._ended(job)
            self._counts.failed += job.batch.pairs
            for _, place in job.parts:
                # Each its own: whoever catches it writes into it what the request had spent.
                place.error = BackendDown(f"the model {name!r} failed: {error}", metadata={"model": name})
                place.error.__cause__ = error
            self._drop({place.number for _, place in job.parts})
        for _, place in job.parts:
            place.wake()


@dataclass(slots=True)
class _Job:
    """A batch under way."""

    batch: Batch
    places: list[Place]

    @property
    def parts(self) -> zip[tuple[Share, Place]]:
        return zip(self.batch.shares, self.places, strict=True)

    def apart(self) -> list[_Job]:
        """Return it as one batch for each request."""
        return [_Job(Batch((share,), self.batch.longest), [place]) for share, place in self.parts]

    @property
    def pairs(self) -> list[Pair]:
        return [place.given[at] for share, place in self.parts for at in share.places]
