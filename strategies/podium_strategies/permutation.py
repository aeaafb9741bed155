"""Small laws about orders, shared by all strategies: checking, sorting in place, shuffling without a clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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


def ahead(order: Sequence[int], best: Sequence[int], group: Sequence[int]) -> tuple[int, ...]:
    """Give the first of the places that `group` holds to `best`, and the others to the rest of it as it stood."""
    members = set(group)
    holders = iter(front(best, [item for item in order if item in members]))
    return tuple(next(holders) if item in members else item for item in order)


def exchanged(order: Sequence[int], results: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    """Let every winner that stands behind its loser change places with it, one (winner, loser) after another.

    Where the results tell the truth the order is never worse afterwards: an exchange of two items that stand wrong
    sets more pairs right than wrong.
    """
    changed = list(order)
    place = {item: i for i, item in enumerate(changed)}
    for winner, loser in results:
        if place[loser] < place[winner]:
            place[winner], place[loser] = place[loser], place[winner]
            changed[place[winner]], changed[place[loser]] = winner, loser
    return tuple(changed)


def risen(order: Sequence[int], beats: Callable[[int, int], bool]) -> tuple[int, ...]:
    """Let each item, from the first on, pass its neighbours in front as long as it `beats` them.

    Knowing no more than some of the pairs it makes right moves only, and knowing all of them it sorts.
    """
    placed: list[int] = []
    for item in order:
        place = len(placed)
        while place > 0 and beats(item, placed[place - 1]):
            place -= 1
        placed.insert(place, item)
    return tuple(placed)


def shuffled(items: Sequence[int], seed: int, *salt: int) -> tuple[int, ...]:
    """Return `items` in an order that depends on `seed` and `salt` alone, the same on every machine for ever.

    Sorting by a keyed hash is a uniform shuffle, and needs neither `random` nor its state.
    """
    key = b"".join(number.to_bytes(16, "little", signed=True) for number in (seed, *salt))

    def lot(place: int) -> bytes:
        return blake2b(place.to_bytes(8, "little"), key=blake2b(key, digest_size=32).digest(), digest_size=16).digest()

    return tuple(items[place] for place in sorted(range(len(items)), key=lot))
