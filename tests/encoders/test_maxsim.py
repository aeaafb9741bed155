from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_server.backends.encoders import maxsim as module
from podium_server.backends.encoders.encoder import Floats, unit
from podium_server.backends.encoders.maxsim import (
    WITHOUT_TOKENS,
    dequantize_tokens,
    maxsim,
    maxsim_int8,
    quantize_tokens,
)


def tokens(rng: np.random.Generator, count: int, dim: int = 16) -> Floats:
    return unit(rng.standard_normal((count, dim)).astype(np.float32))


def naive(query: Floats, docs: list[Floats]) -> list[float]:
    scores = []
    for doc in docs:
        best = [max((float(np.dot(q, d)) for d in doc), default=WITHOUT_TOKENS) for q in query]
        scores.append(sum(best) / len(best) if best else 0.0)
    return scores


@given(
    seed=st.integers(0, 2**32 - 1),
    query=st.integers(0, 6),
    counts=st.lists(st.integers(0, 12), max_size=8),
    rows=st.integers(1, 9),
)
def test_it_is_what_a_loop_computes_whatever_falls_across_the_chunks(
    seed: int, query: int, counts: list[int], rows: int
) -> None:
    rng = np.random.default_rng(seed)
    q, docs = tokens(rng, query), [tokens(rng, count) for count in counts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PRODUCT_SIZE", rows * 16 * max(1, query))
        np.testing.assert_allclose(maxsim(q, docs), naive(q, docs), atol=1e-5)
        np.testing.assert_allclose(maxsim_int8(q, [quantize_tokens(doc) for doc in docs]), maxsim(q, docs), atol=0.01)


def test_a_document_without_tokens_stands_last_and_a_query_without_tells_nothing_apart() -> None:
    rng = np.random.default_rng(0)
    worst = maxsim(tokens(rng, 3), [-tokens(rng, 1), np.empty((0, 16), np.float32)])
    assert worst[1] == WITHOUT_TOKENS < worst[0]
    assert maxsim(tokens(rng, 0), [tokens(rng, 2), tokens(rng, 0)]).tolist() == [0.0, 0.0]
    assert maxsim(tokens(rng, 3), []).shape == (0,)


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-30, 1e30))
def test_a_code_is_off_by_half_a_scale_at_most(seed: int, scale: float) -> None:
    x = (np.random.default_rng(seed).standard_normal((5, 12)) * scale).astype(np.float32)
    codes, scales = quantize_tokens(x)
    assert codes.dtype == np.int8
    assert (np.abs(dequantize_tokens(codes, scales) - x) <= scales[:, None] * 0.5001).all()


def test_zeros_and_nothing_can_be_stored() -> None:
    codes, scales = quantize_tokens(np.zeros((2, 4), np.float32))
    assert not dequantize_tokens(codes, scales).any()
    codes, scales = quantize_tokens(np.empty((0, 4), np.float32))
    assert codes.shape == (0, 4)
    assert scales.shape == (0,)
