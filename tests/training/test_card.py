"""What a model card says of its making."""

from __future__ import annotations

from typing import Any

import pytest

from podium_server.training.card import Made, written
from podium_server.training.measures import Comparison
from podium_server.training.recipe import Recipe
from podium_server.training.recipe_file import parse

MADE = Made(
    name="mine",
    command="podium distil r.toml",
    recipe_text="",
    streams=(),
    results={name: (0.1, {"fused": Comparison(0.1, 0.2, 3, 1, 0, 0.5)}) for name in ("held out", "a test")},
    after_only=frozenset({"a test"}),
    versions={},
    facts=(),
    remarks=(),
    baseline="the start",
)


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({}, "Which checkpoint was kept was decided by held out; the other"),
        ({"keep": "last"}, "The last step was kept: no set decided anything."),
        ({"keep": "last", "patience": 3}, "was kept, and when to stop was decided by held out; the other"),
    ],
)
def test_a_card_says_what_decided(training: dict[str, Any], said: str) -> None:
    recipe = parse({"data": [{"path": "a"}], "development": [{"path": "b"}], "training": training}, where="r.toml")
    assert isinstance(recipe, Recipe)
    assert said in written(MADE, recipe)
