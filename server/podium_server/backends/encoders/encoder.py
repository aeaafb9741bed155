"""The contract that every encoder keeps: texts in, vectors out, and what it took.

An encoder is called off the event loop, by several threads at the same time: its methods block and are thread-safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]

deadline_at: ContextVar[float | None] = ContextVar("deadline_at", default=None)
"""`time.monotonic()` seconds after which vectors are of no use: set in the thread that calls an encoder, read by those
that wait for somebody else. A model in this process ends what it has begun, which is short."""

LEAST_NORM = 1e-12
"""Below it a vector has no direction, and is left as it is."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A batch of texts as vectors, in the order in which the texts were given, with what it took.

    Args:
        vectors: (texts, dim) float32, each of length 1.
        token_vectors: of each text (its tokens, width) float32, each of length 1, without special tokens and without
            the tokens of a prefix; (0, width) for a text without tokens. The width is `dim`, or that of the model's own
            projection for late interaction. None where not asked for.
        tokens: of each text, how many tokens the model sees of it, special tokens and prefix included.
        truncated: of each text, whether the model did not see its end.
        prompt_tokens: tokens that went through the model for this call; less than the sum of `tokens` where a cache
            or a twin answered.
        calls: requests to a remote endpoint, failed ones included; 0 for a model in this process.
        retries: of these, how many repeated an earlier one.
        cache_hits: texts answered without the model, because the cache or the same batch already held them.
        tokenize_s: seconds of making tokens.
        infer_s: seconds of the model at work, a remote endpoint's network and waits included.

    """

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


class Encoder(Protocol):
    """A model that turns texts into vectors whose cosine says how well they match."""

    @property
    def name(self) -> str:
        """The configured name."""

    @property
    def revision(self) -> str:
        """A hash of all that decides a vector: weights, tokenizer, prefixes, cut. Equal revisions, equal vectors."""

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
        """Encode what is looked for. Meant for one or a few texts, at low latency.

        Raises:
            FailedPrecondition: token vectors are asked for and the model has none.
            BackendDown, BackendRefused, Overloaded, UnreadableReply: a remote endpoint failed.

        """

    def encode_documents(self, texts: Sequence[str], *, token_vectors: bool = False) -> Encoded:
        """Encode what is searched. Meant for many texts, at high throughput.

        Args:
            texts: any strings, empty ones and lone surrogates (read as U+FFFD) included.
            token_vectors: also one vector a token: 4 × dim bytes a token, so slice long lists.

        Raises:
            FailedPrecondition: token vectors are asked for and the model has none.
            BackendDown, BackendRefused, Overloaded, UnreadableReply: a remote endpoint failed.

        """

    def close(self) -> None:
        """Free the model. No call may follow; calls under way end first or fail."""


def unit(x: Floats) -> Floats:
    """Return `x` (…, dim) with its vectors scaled to length 1; those without a direction stay as they are."""
    lengths = np.sqrt(np.einsum("...d,...d->...", x, x))[..., None]
    scaled: Floats = x / np.maximum(lengths, LEAST_NORM)
    return scaled


def well_formed(text: str) -> str:
    """Return `text` as valid Unicode: surrogate pairs joined, lone surrogates replaced by U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


CHARACTERS_PER_TOKEN = 16
"""Read first of a long text, for each token that the model takes; enough for nearly every text of any language."""
CHARACTERS_PER_TOKEN_AT_MOST = 256
"""Nothing beyond is read, whatever the text: five megabytes of blanks must not occupy a core."""
_LOOK_BACK_CHARACTERS = 256


def beginning(text: str, characters: int) -> str:
    """Return about the first `characters` of `text`, ending between words where a blank is near."""
    if len(text) <= characters:
        return text
    head = text[:characters]
    # A word cut in two has other tokens than the word. A run without blanks is either CJK, where a cut anywhere is
    # as good, or no word at all.
    for back in range(1, min(_LOOK_BACK_CHARACTERS, characters) + 1):
        if head[-back].isspace():
            return head[:-back]
    return head
