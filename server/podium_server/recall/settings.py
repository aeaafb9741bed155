"""How a collection is embedded, and what its encoder has room for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from podium_server.errors import FailedPrecondition, InvalidRequest
from podium_server.recall.encoding import Encoder
from podium_server.recall.limits import CHUNK_TOKENS_MIN, OVERLAP_TOKENS


@dataclass(frozen=True, slots=True)
class CollectionSettings:
    """How a collection is embedded.

    Args:
        encoder: the configured name of the model.
        chunk_tokens: of a passage at most, title included; 0: what the encoder reads.
        overlap_tokens: that neighbouring passages share.
        token_vectors: keep one vector a token, for late interaction.

    """

    encoder: str
    chunk_tokens: int = 0
    overlap_tokens: int = OVERLAP_TOKENS
    token_vectors: bool = False


def settled(settings: CollectionSettings, encoder: Encoder, *, token_vectors: bool) -> CollectionSettings:
    """Return settings of which nothing is left open.

    Args:
        settings: as they are asked for.
        encoder: of the collection.
        token_vectors: whether this store can keep them.

    Raises:
        InvalidRequest: the encoder does not read so much at once, or neighbours share too much.
        FailedPrecondition: token vectors are wanted, and cannot be had.

    """
    filled = settings
    if not settings.chunk_tokens:
        overlap = settings.overlap_tokens
        if overlap == OVERLAP_TOKENS:
            # The usual one is nobody's choice, and may be more than a small encoder has room for.
            overlap = min(overlap, max((encoder.max_tokens - 1) // 2, 0))
        filled = replace(settings, chunk_tokens=encoder.max_tokens, overlap_tokens=overlap)
    if not CHUNK_TOKENS_MIN <= filled.chunk_tokens <= encoder.max_tokens:
        raise InvalidRequest(
            "collection.chunking.max_tokens",
            f"is {filled.chunk_tokens}; {CHUNK_TOKENS_MIN} up to the {encoder.max_tokens} that "
            f"{encoder.name!r} reads, or 0 for these",
        )
    if not 0 <= 2 * filled.overlap_tokens < filled.chunk_tokens:
        raise InvalidRequest(
            "collection.chunking.overlap_tokens",
            f"is {filled.overlap_tokens}; from 0 to less than half of {filled.chunk_tokens}",
        )
    if filled.token_vectors and not (token_vectors and encoder.has_token_vectors):
        raise FailedPrecondition(
            f"the encoder {encoder.name!r} has no token vectors to keep; leave token_vectors out, or use another"
        )
    return filled
