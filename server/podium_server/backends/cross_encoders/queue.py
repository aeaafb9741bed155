"""Which pairs make the next batch: a value, and functions that return another one. No clock, no thread, no model.

Requests stand in the order in which a machine shared fairly between them would have finished with each (the fair
sojourn protocol: Friedman and Henderson, "Fairness and efficiency in web server protocols", SIGMETRICS 2003; the
virtual time is that of weighted fair queueing, Demers, Keshav and Shenker, SIGCOMM 1989). Nobody is finished later
than under fair sharing, give or take a batch, and most are much earlier, because nobody stands half done beside the
others.

The law, in tokens served. A request's claim is its tokens, at most a quantum. While one of n tokens waits, the others
get at most the sum of their claims for each quantum that n has begun, and a batch each. So with R requests of any size
waiting, one that is no larger than the quantum stands behind at most R quanta; requests up to the quantum are served in
the order in which they came; and one that comes while a huge one is at work stands behind what is under way, and at the
very most a quantum.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import NamedTuple

SIMILAR = 0.75
"""A pair joins those of a longer one at once if it is at least that part as long."""
TOLERABLE = 0.5
"""A pair that would be more padding than text waits for a batch of its own kind."""
_LOOKED_AT_PER_PLACE = 4
"""Requests that are looked at for each place in a batch: what bounds the work of `take`."""
_LEAST_PORTION = 4
"""A batch is not made smaller than this part of the budget to keep all lanes at work."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What one batch may hold.

    Args:
        padded_tokens: pairs × the longest of them. A longer pair is a batch alone.
        pairs: at most.

    """

    padded_tokens: int
    pairs: int

    def __post_init__(self) -> None:
        if self.padded_tokens < 1 or self.pairs < 1:
            raise ValueError(f"a batch of {self.padded_tokens} tokens and {self.pairs} pairs holds nothing: 1 at least")

    def evened(self, waiting_tokens: int, lanes: int) -> Budget:
        """Return the budget with which little work is spread over all lanes, instead of keeping one of them at work."""
        part = max(-(-waiting_tokens // lanes), self.padded_tokens // _LEAST_PORTION, 1)
        return self if part >= self.padded_tokens else replace(self, padded_tokens=part)


class Share(NamedTuple):
    """The part of a batch that is one request's: which of its pairs, and their tokens together."""

    request: int
    places: tuple[int, ...]
    tokens: int


class Batch(NamedTuple):
    """Pairs to be scored together. Empty where nothing waits."""

    shares: tuple[Share, ...] = ()
    longest: int = 0

    @property
    def pairs(self) -> int:
        """How many there are."""
        return sum(len(share.places) for share in self.shares)

    @property
    def tokens(self) -> int:
        """Of all pairs, without padding."""
        return sum(share.tokens for share in self.shares)


class Lengths(NamedTuple):
    """The pairs of one request, the longest first. Made apart from `put`, because to sort ten thousand takes a while.

    Args:
        negated: tokens of each pair, times -1: ascending.
        places: of these in the request.
        tokens: of all of them.

    """

    negated: tuple[int, ...]
    places: tuple[int, ...]
    tokens: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Lengths:
        """Sort the tokens of each pair, of which there are at least one."""
        if not lengths or min(lengths) < 1:
            raise ValueError(f"a request of {len(lengths)} pairs: one at least, and each of 1 token at least")
        places = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
        return cls(tuple(-lengths[place] for place in places), tuple(places), sum(lengths))


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is left of one request.

    Args:
        request: its number, higher for later ones.
        finish: in turns: when fair sharing would have finished it.
        claim: on service: tokens a turn.
        deadline_at: after which nobody wants its scores; the clock is the caller's.
        lengths: of all its pairs.
        spans: [start, stop) of those that wait, in `lengths`, ascending.
        tokens: of those that wait.
        pairs: that wait.

    """

    request: int
    finish: float
    claim: float
    deadline_at: float
    lengths: Lengths
    spans: tuple[tuple[int, int], ...]
    tokens: int
    pairs: int

    @property
    def longest(self) -> int:
        """Tokens of the longest pair that waits."""
        return -self.lengths.negated[self.spans[0][0]]

    def pulled(self, most: int, least: float, n: int) -> tuple[Share, Waiting]:
        """Take up to `n` pairs of `least` to `most` tokens, the longest first."""
        negated, places, _ = self.lengths
        low = bisect_left(negated, -most)
        high = bisect_right(negated, -least)
        first = bisect_right(self.spans, low, key=lambda span: span[1])
        last = first
        taken: list[int] = []
        tokens = 0
        left: list[tuple[int, int]] = []
        while last < len(self.spans) and len(taken) < n and self.spans[last][0] < high:
            start, stop = self.spans[last]
            begin = max(start, low)
            end = min(stop, high, begin + n - len(taken))
            taken += places[begin:end]
            tokens -= sum(negated[begin:end])
            left += [(start, begin)] if start < begin else []
            left += [(end, stop)] if end < stop else []
            last += 1
        if not taken:
            return Share(self.request, (), 0), self
        spans = (*self.spans[:first], *left, *self.spans[last:])
        rest = replace(self, spans=spans, tokens=self.tokens - tokens, pairs=self.pairs - len(taken))
        return Share(self.request, tuple(taken), tokens), rest


class _Sharer(NamedTuple):
    """A request in the imagined machine that serves all at the same time, each by its claim."""

    finish: float
    request: int
    claim: float


@dataclass(frozen=True, slots=True)
class Queue:
    """All that waits for one model.

    Args:
        quantum: tokens; requests up to it are served in the order in which they came.
        line: requests in the order in which they are served.
        sharers: those that fair sharing would not have finished yet, by when it will.
        turn: how far fair sharing is. In one turn each sharer gets its claim.
        claims: the sum of the sharers'.
        tokens: that wait.
        pairs: that wait.

    """

    quantum: int
    line: tuple[Waiting, ...] = ()
    sharers: tuple[_Sharer, ...] = ()
    turn: float = 0.0
    claims: float = 0.0
    tokens: int = 0
    pairs: int = 0

    def __post_init__(self) -> None:
        if self.quantum < 1:
            raise ValueError(f"quantum is {self.quantum} tokens: 1 at least")


def put(queue: Queue, request: int, lengths: Lengths, *, deadline_at: float | None = None) -> Queue:
    """Return the queue with one request more.

    Args:
        queue: as it is.
        request: a number that no other has, higher than all before.
        lengths: its pairs.
        deadline_at: after which nobody wants its scores.

    """
    tokens = lengths.tokens
    claim = min(tokens, queue.quantum)
    entry = Waiting(
        request=request,
        finish=_finish(queue, tokens),
        claim=claim,
        deadline_at=inf if deadline_at is None else deadline_at,
        lengths=lengths,
        spans=((0, len(lengths.places)),),
        tokens=tokens,
        pairs=len(lengths.places),
    )
    at = bisect_right(queue.line, (entry.finish, float(request)), key=_order)
    sharers = list(queue.sharers)
    insort(sharers, _Sharer(entry.finish, request, claim))
    return replace(
        queue,
        line=(*queue.line[:at], entry, *queue.line[at:]),
        sharers=tuple(sharers),
        claims=queue.claims + claim,
        tokens=queue.tokens + tokens,
        pairs=queue.pairs + entry.pairs,
    )


def ahead(queue: Queue, tokens: int) -> int:
    """Return the waiting tokens that would be served before a request that came now."""
    at = bisect_right(queue.line, (_finish(queue, tokens), inf), key=_order)
    return sum(waiting.tokens for waiting in queue.line[:at])


def take(queue: Queue, budget: Budget) -> tuple[Batch, Queue]:
    """Return the next batch, and what waits then.

    The first in line gives its longest pair, and those of about that length. Others fill what room is left, in their
    order: with pairs of about that length, so that they cost no padding; then whoever's are not much shorter.
    """
    if not queue.line:
        return Batch(), queue
    longest = queue.line[0].longest
    room = max(1, min(budget.pairs, budget.padded_tokens // longest))
    head = list(queue.line[: 1 + room * _LOOKED_AT_PER_PLACE])
    shares: dict[int, Share] = {}
    touched = 0
    for least in (SIMILAR * longest, TOLERABLE * longest):
        for at, waiting in enumerate(head):
            if not room:
                break
            if not waiting.pairs:
                continue
            share, head[at] = waiting.pulled(longest, least, room)
            if share.places:
                before = shares.get(at)
                shares[at] = share if before is None else _joined(before, share)
                room -= len(share.places)
                touched = max(touched, at + 1)
    batch = Batch(tuple(shares[at] for at in sorted(shares)), longest)
    line = (*(waiting for waiting in head[:touched] if waiting.pairs), *queue.line[touched:])
    tokens = batch.tokens
    left = replace(queue, line=line, tokens=queue.tokens - tokens, pairs=queue.pairs - batch.pairs)
    return batch, _shared(left, tokens)


def drop(queue: Queue, gone: Container[int]) -> Queue:
    """Return the queue without what waits of these requests."""
    dropped = [waiting for waiting in queue.line if waiting.request in gone]
    if not dropped:
        return queue
    shorter = {waiting.request: waiting.finish - waiting.tokens / waiting.claim for waiting in dropped}
    # A request that has gone is one that wanted no more than it got. Where fair sharing would have given it more by
    # now, the others would have had that.
    others = 0.0
    sharers = []
    for sharer in queue.sharers:
        finish = shorter.get(sharer.request, sharer.finish)
        if finish > queue.turn:
            sharers.append(sharer._replace(finish=finish))
    for waiting in dropped:
        finish = shorter[waiting.request]
        others += max(0.0, min(queue.turn, waiting.finish) - finish) * waiting.claim
    left = replace(
        queue,
        line=tuple(waiting for waiting in queue.line if waiting.request not in gone),
        sharers=tuple(sorted(sharers)),
        claims=sum(sharer.claim for sharer in sharers),
        tokens=queue.tokens - sum(waiting.tokens for waiting in dropped),
        pairs=queue.pairs - sum(waiting.pairs for waiting in dropped),
    )
    return _shared(left, others)


def expired(queue: Queue, now: float) -> frozenset[int]:
    """Return the requests whose deadline has passed."""
    return frozenset(waiting.request for waiting in queue.line if waiting.deadline_at <= now)


def _shared(queue: Queue, tokens: float) -> Queue:
    """Return the queue after fair sharing has served as many tokens as the model has."""
    if not queue.line:
        return Queue(queue.quantum)  # both have nothing left to do
    turn, claims = queue.turn, queue.claims
    done = 0
    while done < len(queue.sharers):
        sharer = queue.sharers[done]
        until = (sharer.finish - turn) * claims
        if until > tokens:
            turn += tokens / claims
            break
        tokens -= until
        turn = sharer.finish
        claims -= sharer.claim
        done += 1
    sharers = queue.sharers[done:]
    return replace(queue, sharers=sharers, turn=turn, claims=claims if sharers else 0.0)


def _finish(queue: Queue, tokens: int) -> float:
    return queue.turn + tokens / min(tokens, queue.quantum)


def _order(waiting: Waiting) -> tuple[float, float]:
    return waiting.finish, waiting.request


def _joined(one: Share, other: Share) -> Share:
    return Share(one.request, (*one.places, *other.places), one.tokens + other.tokens)
