"""A deterministic encoder without a model: each word has a direction of its own, and a text is their sum."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from podium_server.recall.text import words

Floats = NDArray[np.float32]
DIM = 48


@dataclass(frozen=True)
class ToyEncoded:
    vectors: Floats
    token_vectors: tuple[Floats, ...] | None
    tokens: tuple[int, ...]
    truncated: tuple[bool, ...]
    prompt_tokens: int
    calls: int = 0
    retries: int = 0
    cache_hits: int = 0
    tokenize_s: float = 0.0
    infer_s: float = 0.0


@lru_cache(maxsize=100_000)
def direction(word: str) -> Floats:
    seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
    vector = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return vector / np.linalg.norm(vector)


@dataclass
class ToyEncoder:
    name: str = "toy"
    revision: str = "1"
    dim: int = DIM
    max_tokens: int = 64
    has_token_vectors: bool = True
    encoded: list[str] = field(default_factory=list)

    def encode_queries(self, texts: Sequence[str], *, token_vectors: bool = False) -> ToyEncoded:
        tokens = tuple(
            np.array([direction(word) for word in words(text)], np.float32).reshape(-1, DIM) for text in texts
        )
        sums = np.array([one.sum(axis=0) if len(one) else direction("") for one in tokens], np.float32)
        vectors = (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)).astype(np.float32)
        counts = tuple(len(one) for one in tokens)
        return ToyEncoded(
            vectors, tokens if token_vectors else None, counts, tuple(n > self.max_tokens for n in counts), sum(counts)
        )

    def encode_documents(self, texts: Sequence[str], *, token_vectors: bool = False) -> ToyEncoded:
        self.encoded.extend(texts)
        return self.encode_queries(texts, token_vectors=token_vectors)


def quantize(tokens: Floats) -> tuple[NDArray[np.int8], Floats]:
    scales = np.maximum(np.abs(tokens).max(axis=1, initial=0), 1e-9).astype(np.float32) / 127
    return np.rint(tokens / scales[:, None]).astype(np.int8), scales
