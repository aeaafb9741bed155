"""What recall needs of an encoder. The encoders themselves are injected; `podium_server.backends` has some that fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from podium_server.accounting.usage import Usage

Floats: TypeAlias = NDArray[np.float32]
Codes: TypeAlias = NDArray[np.int8]

Quantize: TypeAlias = Callable[[Floats], tuple[Codes, Floats]]
"""(tokens, dim) float32 → (tokens, dim) int8 codes and (tokens,) float32 scales; codes × scales ≈ the vectors."""


class Encoded(Protocol):
    """A batch of texts as vectors: see `podium_server.backends.encoders.encoder.Encoded`."""

    @property
    def vectors(self) -> Floats:
        """(texts, dim) float32, each of length 1."""

    @property
    def token_vectors(self) -> tuple[Floats, ...] | None:
        """Of each text (its tokens, dim) float32, each of length 1; None where not asked for."""

    @property
    def truncated(self) -> tuple[bool, ...]:
        """Of each text, whether the model did not see its end."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens that went through the model."""

    @property
    def calls(self) -> int:
        """Requests to a remote endpoint."""

    @property
    def retries(self) -> int:
        """Of these, repeated ones."""

    @property
    def cache_hits(self) -> int:
        """Texts that were answered without the model."""

    @property
    def tokenize_s(self) -> float:
        """Seconds of making tokens."""

    @property
    def infer_s(self) -> float:
        """Seconds of the model at work."""


class Encoder(Protocol):
    """A thread-safe, blocking encoder: see `podium_server.backends.encoders.encoder.Encoder`."""

    @property
    def name(self) -> str:
        """The configured name."""

    @property
    def revision(self) -> str:
        """Equal revisions, equal vectors."""

    @property
    def dim(self) -> int:
        """The length of a vector."""

    @property
    def max_tokens(self) -> int:
        """The most tokens of a text that the model sees, special tokens and prefix included."""

    @property
    def has_token_vectors(self) -> bool:
        """Whether `token_vectors=True` is possible."""

    def encode_queries(self, texts: Sequence[str], *, token_vectors: bool = False) -> Encoded:
        """Encode what is looked for."""

    def encode_documents(self, texts: Sequence[str], *, token_vectors: bool = False) -> Encoded:
        """Encode what is searched."""


def usage_of(encoded: Encoded, *, documents: bool) -> Usage:
    """Return what encoding a batch took, not priced."""
    return Usage(
        # A pass of a model in this process is a call too; what a cache answered whole is none.
        calls=encoded.calls or int(encoded.prompt_tokens > 0),
        retries=encoded.retries,
        prompt_tokens=encoded.prompt_tokens,
        cache_hits=encoded.cache_hits,
        truncated_documents=sum(encoded.truncated) if documents else 0,
        tokenize_s=encoded.tokenize_s,
        backend_s=encoded.infer_s,
    )
