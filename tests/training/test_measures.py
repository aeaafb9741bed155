"""The paired test against its own definition, and the picture."""

from __future__ import annotations

import random
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_server.training import curve
from podium_server.training.measures import compared, order


def test_equal_scores_keep_their_places_and_no_number_stands_last() -> None:
    assert order([1.0, float("nan"), 2.0, 1.0, float("-inf")]) == [2, 0, 3, 4, 1]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
@settings(max_examples=30, deadline=None)
def test_p_is_the_share_of_sign_changes_as_far_from_nothing(values: list[tuple[float, float]]) -> None:
    before, after = ({str(i): pair[side] for i, pair in enumerate(values)} for side in (0, 1))
    result = compared(before, after)
    differences = [new - old for old, new in values]
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in product((-1, 1), repeat=len(values))
    ]
    exact = sum(each >= abs(sum(differences)) - 1e-12 for each in sums) / len(sums)
    assert result.p == pytest.approx(exact, abs=0.03)
    assert result.queries == len(values)
    assert result.better == sum(d > 0 for d in differences)


def test_a_clear_gain_is_told_from_chance() -> None:
    rng = random.Random(0)
    before = {str(i): rng.random() / 2 for i in range(60)}
    clear = compared(before, {name: value + 0.1 + rng.random() / 20 for name, value in before.items()})
    chance = compared(before, {name: value + rng.gauss(0, 0.1) for name, value in before.items()})
    assert clear.p < 0.001
    assert chance.p > 0.01
    assert compared(before, {}).queries == 0


def test_the_picture_is_well_formed_whatever_it_shows() -> None:
    import xml.etree.ElementTree as ElementTree

    for measured, losses in (
        ({}, []),
        ({"a & <b>": [(0, 0.5)]}, [(1, 2.0)]),
        ({"x": [(0, 0.1), (9, 0.1)]}, [(1, 0.0), (2, 0.0)]),
    ):
        svg = ElementTree.fromstring(curve.drawn("t < & >", measured, losses, 1))
        assert svg.tag.endswith("svg")
