"""An encoder whose vectors are a function of the text alone, so that a test can say what must come out."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from podium_server.backends.encoders.encoder import Encoded, Floats, unit

DIM = 16


def word_vector(word: str) -> Floats:
    seed = int.from_bytes(blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)


class ToyEncoder:
    """Words are tokens; a text's vector is the mean of its words'."""

    name = "toy"
    revision = "toy-1"
    dim = DIM
    max_tokens = 32
    has_token_vectors = True

    def __init__(self) -> None:
        self.passes: list[list[str]] = []
        self.closed = False

    def encode_queries(self, texts: Sequence[str], *, token_vectors: bool = False) -> Encoded:
        return self._encode(texts, token_vectors)

    def encode_documents(self, texts: Sequence[str], *, token_vectors: bool = False) -> Encoded:
        return self._encode(texts, token_vectors)

    def close(self) -> None:
        self.closed = True

    def _encode(self, texts: Sequence[str], token_vectors: bool) -> Encoded:
        self.passes.append(list(texts))
        words = [text.split()[: self.max_tokens] or [""] for text in texts]
        tokens = [unit(np.stack([word_vector(word) for word in row])) for row in words]
        counts = tuple(len(row) for row in words)
        return Encoded(
            vectors=unit(np.stack([rows.mean(axis=0) for rows in tokens])),
            token_vectors=tuple(tokens) if token_vectors else None,
            tokens=counts,
            truncated=tuple(len(text.split()) > self.max_tokens for text in texts),
            prompt_tokens=sum(counts),
        )
