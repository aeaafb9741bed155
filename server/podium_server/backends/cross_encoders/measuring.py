"""How many pairs make the fastest batch, found by running some: twice as many each time, until more is no faster."""

from __future__ import annotations

import time
from collections.abc import Callable

from podium_server.backends.cross_encoders.cross_encoder import Capacity

_ENOUGH = 0.95
"""Of the best rate. The smallest batch that reaches it is taken: a short request waits for less."""
_MOST_PAIRS = 512
_PROBE_S = 2.0
"""For all batches together; the one under way ends."""
_LONGEST_BATCH_S = 0.5
"""What has begun cannot be cancelled, so that a batch must not take as long as a request may."""
_SHORTEST_PAIR_TOKENS = 16


def measured(
    run: Callable[[int, int], None],
    *,
    tokens_per_pair: int,
    batch_tokens: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Capacity:
    """Return the capacity of one lane.

    Args:
        run: score that many pairs of that many tokens each, to the end.
        tokens_per_pair: the length to measure with.
        batch_tokens: the wanted padded tokens of a batch; None looks for the best.
        clock: gives seconds.

    Raises:
        MemoryError: not even one pair fits.

    """
    run(1, tokens_per_pair)  # the first pass also pays for what is prepared once
    begun_s, rates = clock(), dict[int, float]()
    pairs = 1 if batch_tokens is None else max(1, batch_tokens // tokens_per_pair)
    while True:
        try:
            took_s = min(_seconds(run, pairs, tokens_per_pair, clock) for _ in range(2))
        except MemoryError:
            if not rates:
                raise
            break
        rates[pairs] = pairs * tokens_per_pair / max(took_s, 1e-9)
        slower = rates[pairs] < 0.9 * max(rates.values())
        if batch_tokens is not None or slower or 2 * took_s > _LONGEST_BATCH_S or clock() - begun_s > _PROBE_S:
            break
        if pairs >= _MOST_PAIRS:
            break
        pairs *= 2
    best = min(count for count, rate in rates.items() if rate >= _ENOUGH * max(rates.values()))
    padded_tokens = max(best * tokens_per_pair, batch_tokens or 0)
    return Capacity(
        lanes=1,
        padded_tokens=padded_tokens,
        pairs=max(best, padded_tokens // _SHORTEST_PAIR_TOKENS),
        tokens_per_s=rates[best],
    )


def _seconds(run: Callable[[int, int], None], pairs: int, tokens: int, clock: Callable[[], float]) -> float:
    begun_s = clock()
    run(pairs, tokens)
    return clock() - begun_s
