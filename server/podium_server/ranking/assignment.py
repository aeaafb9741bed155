"""Who is in an experiment, and who drafts first: numbers that follow from names alone, the same in every process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from hashlib import blake2b

_MANTISSA_BITS = 53


class Arm(Enum):
    """One of the two that an experiment compares."""

    INCUMBENT = "incumbent"
    CHALLENGER = "challenger"


def unit(*parts: str) -> float:
    """Return a number in [0, 1) that follows from the parts: evenly spread, and independent for other parts."""
    digest = blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> (64 - _MANTISSA_BITS)) / (1 << _MANTISSA_BITS)


def assigned(experiment: str, key: str, share: float) -> bool:
    """Tell whether a key belongs to the challenger's share.

    The experiment's name salts the hash, so that two experiments divide the same keys independently. A share that
    grows keeps every key that it had.
    """
    return unit("arm", experiment, key) < share


def fingerprint(text: str, secret: bytes = b"") -> str:
    """Return 16 hexadecimal digits that stand for a text in a log.

    Args:
        text: such as a query, or the key of a user.
        secret: at most 64 bytes. Without one, whoever can guess a text can confirm the guess.

    """
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=secret).hexdigest()


def team_draft(
    incumbent: Sequence[int], challenger: Sequence[int], experiment: str, seed: str
) -> tuple[tuple[int, ...], tuple[Arm, ...]]:
    """Interleave two orders of the same candidates as two captains pick teams.

    In every round a coin says who picks first, and each picks the best of its own order that nobody has picked yet
    (Radlinski, Kurup and Joachims, CIKM 2008, "How does clickthrough data reflect retrieval quality?"). A click is a
    vote for whoever picked the document.

    Args:
        incumbent: places of candidates, best first.
        challenger: the same places in the other order.
        experiment: its name, and
        seed: what else the coins follow from: equal names and seeds, equal coins.

    Returns:
        the order, and for each rank who picked.

    Raises:
        ValueError: the two orders are not of the same candidates.

    """
    if sorted(incumbent) != sorted(challenger):
        raise ValueError(f"orders of {len(incumbent)} and {len(challenger)} candidates that are not the same ones")
    coins = _coins(experiment, seed)
    picked: set[int] = set()
    ahead = {Arm.INCUMBENT: iter(incumbent), Arm.CHALLENGER: iter(challenger)}
    order: list[int] = []
    teams: list[Arm] = []
    while len(order) < len(incumbent):
        first, second = (Arm.CHALLENGER, Arm.INCUMBENT) if next(coins) else (Arm.INCUMBENT, Arm.CHALLENGER)
        for captain in (first, second):
            best = next((place for place in ahead[captain] if place not in picked), None)
            if best is not None:
                picked.add(best)
                order.append(best)
                teams.append(captain)
    return tuple(order), tuple(teams)


def _coins(experiment: str, seed: str) -> Iterator[bool]:
    """Throw coins without end, 512 from each digest."""
    page = 0
    while True:
        digest = blake2b(f"coin\0{experiment}\0{seed}\0{page}".encode("utf-8", "surrogatepass")).digest()
        for byte in digest:
            for bit in range(8):
                yield bool(byte >> bit & 1)
        page += 1
