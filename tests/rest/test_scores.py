"""Scores say what the order says: from 0 to 1, never higher further down, the same however many are shown."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium.v1 import ranking_pb2
from podium_server.rest.scores import SCALES, logistic, scores

KINDS = [kind for kind in ranking_pb2.ScoreKind.values() if kind]
RANKED = st.tuples(st.sampled_from(KINDS), st.none() | st.floats(allow_nan=True, allow_infinity=True))


def ranking(given: list[tuple[Any, float | None]]) -> list[ranking_pb2.RankedDocument]:
    return [
        ranking_pb2.RankedDocument(input_index=place, rank=place + 1, score_kind=kind, score=score)
        for place, (kind, score) in enumerate(given)
    ]


@settings(max_examples=200, deadline=None)
@given(st.lists(RANKED, max_size=30), st.integers(0, 30), st.booleans())
def test_whatever_comes_the_scores_fall(given: list[tuple[Any, float | None]], shown: int, raw: bool) -> None:
    whole = ranking(given)
    every = scores(whole, len(whole), raw=raw)
    assert len(every.values) == len(whole)
    assert all(one >= other for one, other in zip(every.values, every.values[1:], strict=False))
    assert all(math.isfinite(value) for value in every.values)
    if not raw:
        assert all(0 <= value <= 1 for value in every.values)
    # How many are shown is no reason for another score.
    some = scores(whole[:shown], len(whole), raw=raw)
    assert list(some.values) == list(every.values[:shown])


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=20), st.sampled_from(sorted(SCALES)))
def test_one_scale_keeps_every_score(values: list[float], kind: Any) -> None:
    if kind != ranking_pb2.SCORE_KIND_LOGIT:
        values = [math.tanh(value) for value in values]
    values.sort(reverse=True)
    made = scores(ranking([(kind, value) for value in values]), len(values))
    assert made.own == len(values)
    assert "place" not in made.said


def test_a_logit_goes_through_the_logistic_function_once() -> None:
    assert logistic(0) == 0.5
    assert logistic(2) == pytest.approx(1 / (1 + math.exp(-2)))
    assert logistic(-800) == 0
    assert logistic(800) == 1


def test_a_tail_without_scores_lies_below_the_head() -> None:
    head = [(ranking_pb2.SCORE_KIND_PROBABILITY, 0.9), (ranking_pb2.SCORE_KIND_PROBABILITY, 0.4)]
    tail = [(ranking_pb2.SCORE_KIND_NONE, None), (ranking_pb2.SCORE_KIND_COSINE, 0.99)]
    made = scores(ranking(head + tail), 4)
    assert made.values[:2] == [0.9, 0.4]
    assert 0.4 > made.values[2] > made.values[3] > 0
    assert made.said == "probability=2, place=2"


def test_an_order_alone_gives_scores_by_place() -> None:
    made = scores(ranking([(ranking_pb2.SCORE_KIND_FUSED, 3.0), (ranking_pb2.SCORE_KIND_FUSED, 1.0)]), 4)
    assert list(made.values) == [1.0, 0.75]
    assert made.said == "place"
