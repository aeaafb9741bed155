"""A cross-encoder whose tokens are words and whose score is a function of the pair alone."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from podium_server.backends.cross_encoders.cross_encoder import Capacity, Pair, ScoreScale
from podium_server.backends.encoders.encoder import Floats
from podium_server.errors import BackendDown

SPECIAL_TOKENS = 3


def toy_score(query: str, passage: str, instruction: str = "") -> float:
    """Return the score of a pair as the toy gives it, one pair at a time."""
    seed = blake2b("\0".join((query, passage, instruction)).encode("utf-8", "replace"), digest_size=4).digest()
    return float(np.float32(int.from_bytes(seed, "little") / 2**31 - 1))


class ToyCrossEncoder:
    """Scores what it is let: `let` holds all lanes up while it is not set. Fails at passages that say so."""

    name = "toy"
    revision = "toy-1"

    def __init__(self, *, max_tokens: int = 64, capacity: Capacity | None = None, scale: ScoreScale = "logit") -> None:
        self.max_tokens = max_tokens
        self.scale: ScoreScale = scale
        self.capacity = capacity or Capacity(lanes=2, padded_tokens=64, pairs=8, tokens_per_s=10_000.0)
        self.let = threading.Event()
        self.let.set()
        self.batches: list[list[Pair]] = []
        self.tokenized: list[str] = []
        self.at_work = 0
        self.closed = False

    def pairs(self, query: str, passages: Sequence[str], *, instruction: str = "") -> list[Pair]:
        self.tokenized += passages
        asked = len(query.split())
        made = []
        for passage in passages:
            room = max(0, self.max_tokens - SPECIAL_TOKENS - asked)
            words = passage.split()
            kept = " ".join(words[:room]) if len(words) > room else passage
            tokens = min(self.max_tokens, SPECIAL_TOKENS + asked + len(words))
            made.append(Pair(tokens, len(words) > room, (query, kept, instruction)))
        return made

    def spans(self, text: str) -> list[tuple[int, int]]:
        return [found.span() for found in re.finditer(r"\S+", text)]

    def score(self, batch: Sequence[Pair]) -> Floats:
        self.batches.append(list(batch))
        self.at_work += 1
        assert self.let.wait(30)
        self.at_work -= 1
        if any("explode" in pair.input[1] for pair in batch):
            raise BackendDown("a passage exploded")
        return np.asarray([toy_score(*pair.input) for pair in batch], np.float32)

    def close(self) -> None:
        self.closed = True
