"""Late interaction (ColBERT, arXiv 2004.12832): how well each token of a query is met by the best of a document's.

100 documents of 130 tokens, 384 wide, against 15 query tokens, take about 5 ms of one core, float32 or int8 alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from podium_server.backends.encoders.encoder import Floats

WITHOUT_TOKENS = -1.0
"""The score of a document without tokens: the least that a mean of cosines can be, so that it stands last."""

Codes: TypeAlias = NDArray[np.int8]
Scales: TypeAlias = NDArray[np.float32]

# Multiplications of one product. With more than that the BLAS library (OpenBLAS, in numpy's wheels) shares a product
# among threads that spin for each other; where an encoder keeps the cores busy as well, that took 20 to 80 times as
# long as the calling thread alone. A product so small also stays in the core's cache between being written and read.
_PRODUCT_SIZE = 1 << 19
_GREATEST_CODE = 127


def maxsim(query_tokens: Floats, docs: Sequence[Floats]) -> Floats:
    """Score documents by the mean over query tokens of the best cosine among the document's tokens.

    Args:
        query_tokens: (q, dim) float32, each of length 1. Without any, no document differs from another: all 0.
        docs: n arrays (t_i, dim) float32, each of length 1; t_i may be 0 (`WITHOUT_TOKENS`).

    Returns:
        (n,) float32 from -1 to 1.

    """
    return _maxsim(query_tokens, docs, None)


def quantize_tokens(vectors: Floats) -> tuple[Codes, Scales]:
    """Store token vectors in a quarter of the space: int8 codes and one scale a token.

    Args:
        vectors: (t, dim) float32, finite.

    Returns:
        (t, dim) int8 and (t,) float32; `codes * scales[:, None]` is off by half a scale in each number at most, which
        is 1/254 of the token's greatest one.

    """
    scales = np.abs(vectors).max(axis=1, initial=0.0).astype(np.float32) / np.float32(_GREATEST_CODE)
    # A vector of zeros, or too small for a scale to be told from zero, has the codes 0 whatever its scale.
    divisors = np.where(scales > np.finfo(np.float32).tiny, scales, np.float32(1.0))
    return np.rint(vectors / divisors[:, None]).astype(np.int8), scales


def dequantize_tokens(codes: Codes, scales: Scales) -> Floats:
    """Return (t, dim) float32 from what `quantize_tokens` returned."""
    return codes.astype(np.float32) * scales.astype(np.float32)[:, None]


def maxsim_int8(query_tokens: Floats, docs: Sequence[tuple[Codes, Scales]]) -> Floats:
    """Score as `maxsim` does, from stored codes; within 0.01 of it, as every cosine is.

    Args:
        query_tokens: (q, dim) float32, each of length 1.
        docs: n pairs of (t_i, dim) int8 and (t_i,) float, as `quantize_tokens` returns them.

    Returns:
        (n,) float32.

    """
    return _maxsim(query_tokens, [codes for codes, _ in docs], [scales for _, scales in docs])


def _maxsim(query_tokens: Floats, docs: Sequence[Floats | Codes], scales: Sequence[Scales] | None) -> Floats:
    if not len(query_tokens):
        return np.zeros(len(docs), np.float32)
    scores = np.full(len(docs), WITHOUT_TOKENS, np.float32)
    filled = [i for i, doc in enumerate(docs) if len(doc)]  # a segment of no rows has no maximum
    if not filled:
        return scores
    counts = np.array([len(docs[i]) for i in filled])
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    cosines = np.empty((int(counts.sum()), len(query_tokens)), np.float32)
    towards = np.ascontiguousarray(query_tokens.T, np.float32)
    rows_at_a_time = max(1, _PRODUCT_SIZE // max(1, query_tokens.size))
    buffer = np.empty((min(rows_at_a_time, len(cosines)), query_tokens.shape[1]), np.float32)
    used = done = 0
    for i in filled:
        doc = docs[i]
        taken = 0
        while taken < len(doc):
            rows = min(len(buffer) - used, len(doc) - taken)
            buffer[used : used + rows] = doc[taken : taken + rows]
            used, taken = used + rows, taken + rows
            if used == len(buffer):
                np.matmul(buffer, towards, out=cosines[done : done + used])
                used, done = 0, done + used
    if used:
        np.matmul(buffer[:used], towards, out=cosines[done : done + used])
    if scales is not None:
        # After the product: 15 numbers a token instead of 384.
        cosines *= np.concatenate([scales[i] for i in filled]).astype(np.float32)[:, None]
    scores[filled] = np.maximum.reduceat(cosines, starts, axis=0).mean(axis=1)
    return scores
