"""How a simulated judge errs: a few numbers, and draws that depend on the seed and on what was asked, on nothing else.

A document's score in a call is

    utility(grade) + length · ln(words over the median) + first_stage · z(first-stage score)
    + persistent · N(0, 1)                                   the same whenever this judge sees this document
    + position_slope · (1/2 − place) + position_edges · (4 (place − 1/2)² − 1/3)
    + call · Gumbel                                          another one in every prompt

with `place` from 0 (shown first) to 1 (shown last). An order is the order of the scores, a choice the highest of them,
and the probability of a preference is the softmax of the scores: with `call` = 1 two documents stand in log-odds of
their scores' difference, which is Plackett–Luce for orders and Bradley–Terry for pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from hashlib import blake2b
from math import cos, log, pi, sqrt
from types import MappingProxyType
from typing import Any

EULER = 0.5772156649015329
"""The mean of a standard Gumbel."""

TIE = 1e-6
"""Utility by which a document of a list stands before the next one of the same grade, so that there is one truth."""

KINDS: Mapping[str, float] = MappingProxyType(
    {"missing": 8.0, "truncated": 3.0, "repetition": 7.0, "prose": 8.0, "refusal": 3.0}
)
"""What malformed replies are, by weight: the 29 of the recordings. Read as `missing` are 11 of them; which of these
were cut off, and not merely short, the recordings do not say."""


@dataclass(frozen=True, slots=True)
class Noise:
    """The faults of a judge.

    Args:
        utility: by grade, from 0 up, rising; what has no judgment has grade 0.
        length: of a document of e times the median's words, against the median.
        first_stage: of one standard deviation of first-stage score within the list, at equal grades.
        position_slope: of the place shown first against the last.
        position_edges: of both ends against the middle.
        persistent: standard deviation of the judge's own opinion of a document.
        call: scale of the Gumbel noise of one call; 0 is none.
        echo: the rate of orders that repeat what was shown.
        malformed: the rate of malformed replies, of `kinds`.
        kinds: by weight.

    """

    utility: tuple[float, ...] = (0.0, 1.0, 2.0, 3.0)
    length: float = 0.0
    first_stage: float = 0.0
    position_slope: float = 0.0
    position_edges: float = 0.0
    persistent: float = 0.0
    call: float = 0.0
    echo: float = 0.0
    malformed: float = 0.0
    kinds: Mapping[str, float] = field(default_factory=lambda: KINDS, hash=False)

    def __post_init__(self) -> None:
        if len(self.utility) < 2 or list(self.utility) != sorted(set(self.utility)):
            raise ValueError(f"utility is {self.utility}: two numbers or more, rising with the grade")
        for name in ("persistent", "call"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}: 0 or more")
        for name in ("echo", "malformed"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: a rate from 0 to 1")
        strange = sorted(set(self.kinds) - set(KINDS))
        if strange or not any(self.kinds.values()) or min(self.kinds.values()) < 0:
            raise ValueError(f"kinds is {dict(self.kinds)}: weights of {', '.join(KINDS)}, not all of them 0")

    def worth(self, grade: int, highest: int) -> float:
        """Return the utility of a grade on a scale of 0 to `highest`; between two levels it is interpolated."""
        top = len(self.utility) - 1
        place = max(0.0, min(1.0, grade / max(highest, 1))) * top
        below = min(int(place), top - 1)
        return self.utility[below] + (place - below) * (self.utility[below + 1] - self.utility[below])

    def scaled(self, factor: float) -> Noise:
        """Return a judge with every fault that many times as large, and the same utilities."""
        faults: dict[str, Any] = {name: getattr(self, name) * factor for name in FAULTS}
        rates: dict[str, Any] = {name: min(1.0, getattr(self, name) * factor) for name in ("echo", "malformed")}
        return replace(self, **faults, **rates)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {item.name: _plain(getattr(self, item.name)) for item in fields(self)}


FAULTS = ("length", "first_stage", "position_slope", "position_edges", "persistent", "call")


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value


RANK_VICUNA = Noise(
    utility=(0.0, 1.84, 3.26, 3.98),
    length=0.14,
    first_stage=1.42,
    position_slope=1.32,
    position_edges=-0.65,
    persistent=1.80,
    call=1.0,
    echo=0.026,
    malformed=0.014,
)
"""What `podium eval simulate-fit` finds of RankVicuna-7B. Echoes are 20 of 774 and malformed replies 11 of 774 in the
recordings of its two checkpoints together."""

LEVELS: Mapping[str, Noise] = MappingProxyType(
    {
        "none": RANK_VICUNA.scaled(0.0),
        "low": RANK_VICUNA.scaled(0.5),
        "medium": RANK_VICUNA,
        "high": RANK_VICUNA.scaled(2.0),
    }
)
"""The levels. `medium` is the fit to the recorded RankVicuna-7B; `low` has every fault of it (noise, bias of place,
length and first stage, echoes, malformed replies) at half its size, `high` at twice its size, and `none` has none: the
judgments themselves, ties in first-stage order.

One pass of 20/10 over DL19 has nDCG@10 .755, .643 and .555 at low, medium and high (two judges each, which differ by
about .02). The recorded RankVicuna-7B has .6682, so that medium is somewhat too noisy a picture of it; low is where
RankZephyr (.739) and RankGPT-4 (.756) are. The third recording, an untrained Vicuna, repeats what it was shown in 364
of 387 replies: it has no opinion to fit."""


# --- draws ----------------------------------------------------------------------------------------------------------


class Draws:
    """Numbers that look random and depend on a key alone (splitmix64, started from a hash of the key)."""

    __slots__ = ("_state",)

    def __init__(self, *key: object) -> None:
        digest = blake2b("\x1f".join(map(str, key)).encode("utf-8", "replace"), digest_size=8).digest()
        self._state = int.from_bytes(digest, "little")

    def uniform(self) -> float:
        """Return a number between 0 and 1, neither of them."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        return ((z ^ (z >> 31)) >> 11) * 2.0**-53 + 2.0**-54

    def gumbel(self) -> float:
        """Return a draw from the standard Gumbel less its mean."""
        return -log(-log(self.uniform())) - EULER

    def normal(self) -> float:
        """Return a draw from N(0, 1)."""
        return sqrt(-2.0 * log(self.uniform())) * cos(2.0 * pi * self.uniform())

    def choice(self, weights: Mapping[str, float]) -> str:
        """Return one of the names, by weight."""
        left = self.uniform() * sum(weights.values())
        for name, weight in weights.items():
            left -= weight
            if left < 0:
                return name
        return next(iter(weights))

    def below(self, n: int) -> int:
        """Return one of range(n)."""
        return min(int(self.uniform() * n), n - 1)


@lru_cache(maxsize=1 << 17)
def _deviation(seed: int, qid: str, docid: str) -> float:
    return Draws(seed, "opinion", qid, docid).normal()


@dataclass(frozen=True, slots=True)
class Merits:
    """What there is to a document for one query, apart from any judge.

    Args:
        docid: of it.
        grade: of the judgments; 0 where there is none.
        highest: grade of the scale.
        rank: in the first stage, from 0.
        length: ln(words over the median of the list).
        first_stage: z of its first-stage score in the list.

    """

    docid: str
    grade: int
    highest: int
    rank: int = 0
    length: float = 0.0
    first_stage: float = 0.0


def opinion(noise: Noise, seed: int, qid: str, merits: Merits) -> float:
    """Return what a judge thinks of a document in every call."""
    worth = noise.worth(merits.grade, merits.highest) - TIE * merits.rank
    worth += noise.length * merits.length + noise.first_stage * merits.first_stage
    return worth + (noise.persistent * _deviation(seed, qid, merits.docid) if noise.persistent else 0.0)


def at_place(noise: Noise, place: int, n: int) -> float:
    """Return what standing at `place` (from 0) of `n` is worth; alone, nothing."""
    if n < 2:
        return 0.0
    share = place / (n - 1) - 0.5
    return -noise.position_slope * share + noise.position_edges * (4 * share * share - 1 / 3)


def scores(noise: Noise, seed: int, qid: str, shown: Sequence[Merits], draws: Draws) -> list[float]:
    """Return the scores of the documents of one call, in the order shown."""
    n = len(shown)
    found = []
    for place, merits in enumerate(shown):
        score = opinion(noise, seed, qid, merits) + at_place(noise, place, n)
        found.append(score + noise.call * draws.gumbel() if noise.call else score)
    return found


def parse(text: str) -> Noise:
    """Read a level, or a level and numbers that differ from it: `medium`, `low,malformed=0.2,echo=0`.

    Raises:
        ValueError: with the names that there are.

    """
    name, _, rest = text.partition(",")
    if name not in LEVELS:
        raise ValueError(f"no noise level is named {name!r} (there are {', '.join(LEVELS)})")
    changes: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        if key not in (*FAULTS, "echo", "malformed"):
            raise ValueError(f"{part!r}: NAME=NUMBER with {', '.join((*FAULTS, 'echo', 'malformed'))}")
        changes[key] = float(value)
    return replace(LEVELS[name], **changes)
