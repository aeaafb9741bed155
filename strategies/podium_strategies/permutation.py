"""Small laws about orders, shared by all strategies: checking, sorting in place, shuffling without a clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b


def is_permutation(order: Sequence[int], n: int) -> bool:
    """Tell whether `order` holds each of `range(n)` exactly once."""
    return len(order) == n and set(order) == set(range(n))


def by_score(scores: Sequence[float]) -> tuple[int, ...]:
    """Return all items by falling score; equal scores keep the first-stage order."""
    return tuple(sorted(range(len(scores)), key=lambda item: -scores[item]))


def resorted(order: Sequence[int], scores: Mapping[int, float]) -> tuple[int, ...]:
    """Sort the items that have a score among the places that they hold; all others stay where they are.

    Where the scores tell the truth the result is never worse than `order`: every swap it makes is a right one.
    """
    known = iter(sorted((item for item in order if item in scores), key=lambda item: -scores[item]))
    return tuple(next(known) if item in scores else item for item in order)


def front(chosen: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """Return `chosen`, then what is left of `order` in its order."""
    taken = set(chosen)
    return (*chosen, *(item for item in order if item not in taken))


def shuffled(items: Sequence[int], seed: int, *salt: int) -> tuple[int, ...]:
    """Return `items` in an order that depends on `seed` and `salt` alone, the same on every machine for ever.

    Sorting by a keyed hash is a uniform shuffle, and needs neither `random` nor its state.
    """
    key = b"".join(number.to_bytes(16, "little", signed=True) for number in (seed, *salt))

    def lot(place: int) -> bytes:
        return blake2b(place.to_bytes(8, "little"), key=blake2b(key, digest_size=32).digest(), digest_size=16).digest()

    return tuple(items[place] for place in sorted(range(len(items)), key=lot))
