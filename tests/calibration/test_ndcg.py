"""nDCG, against the measure that everybody uses."""

from __future__ import annotations

import ir_measures
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import nDCG

from podium_server.jobs.ndcg import ndcg


@settings(max_examples=200, deadline=None)
@given(
    labels=st.lists(st.integers(-1, 4), min_size=1, max_size=30),
    elsewhere=st.lists(st.integers(-1, 4), max_size=10),
    k=st.integers(1, 15),
)
def test_it_is_trec_evals(labels: list[int], elsewhere: list[int], k: int) -> None:
    """Relevant documents that were not ranked count in the ideal; negative labels are no gain."""
    qrels = {"q": {f"d{i}": label for i, label in enumerate(labels + elsewhere)}}
    run = {"q": {f"d{i}": float(len(labels) - i) for i in range(len(labels))}}
    expected = ir_measures.calc_aggregate([nDCG @ k], qrels, run)[nDCG @ k]
    assert ndcg([float(label) for label in labels], labels + elsewhere, k) == pytest.approx(expected, abs=1e-9)


def test_nothing_relevant_is_nothing_gained() -> None:
    assert ndcg([0.0, 0.0], [0.0, 0.0], 10) == 0.0
    assert ndcg([], [], 10) == 0.0
    with pytest.raises(ValueError, match=r"^k is 0"):
        ndcg([1.0], [1.0], 0)
