"""Weights of a fusion: found where they are known, the strategy's own sum, and a pipeline that Podium reads."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_server import config
from podium_server.errors import ConfigInvalid
from podium_server.training import fusion
from podium_server.training.development import Judged, Measured, mean
from podium_server.training.recipe import Fusing
from podium_server.training.recipe_file import parse
from podium_strategies.cascade import Stage
from podium_strategies.drive import run
from podium_strategies.fusion import Fusion
from podium_strategies.oracle import Oracle
from podium_strategies.pointwise import FirstStage
from podium_strategies.pool import Pool

DEVELOPMENT = [{"path": "a"}]


def recipe(**weights: list[float]) -> Fusing:
    signals = [{"name": name, "model": name, "weights": each} for name, each in weights.items()]
    got = parse({"signal": signals, "development": DEVELOPMENT}, where="f.toml")
    assert isinstance(got, Fusing)
    return got


def made_up(lists: int = 40, size: int = 12) -> tuple[Measured, dict[str, list[fusion.Floats]]]:
    """Return lists whose gains are one signal's and half another's, and a third that knows nothing."""
    rng = random.Random(0)
    judged, signals = [], {name: [] for name in ("good", "half", "noise")}  # type: ignore[var-annotated]
    for number in range(lists):
        own = {name: [rng.gauss(0, 1) for _ in range(size)] for name in signals}
        truth = [own["good"][i] + 0.5 * own["half"][i] for i in range(size)]
        gains = tuple(float(max(0, size // 3 - sum(other > t for other in truth))) for t in truth)
        judged.append(Judged(str(number), "q", tuple(map(str, range(size))), gains, gains))
        for name, scores in own.items():
            signals[name].append(fusion.standardised(scores))
    return Measured("made up", tuple(judged)), signals


def test_weights_are_found_where_they_are_known() -> None:
    measured, signals = made_up()
    grid = [0.0, 0.25, 0.5, 1.0, 2.0]
    found = fusion.fitted([measured], {"made up": signals}, recipe(good=[1.0], half=grid, noise=grid))
    assert found.points == 25
    assert 0.3 <= found.weights["half"] <= 0.9
    assert found.weights["noise"] < 0.2
    alone = mean(fusion.values(measured, signals, {"good": 1.0}))
    assert alone < found.value <= found.best


@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=5), min_size=2, max_size=3), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_the_sum_is_the_fusion_strategy_s(voices: list[list[float]], weight: int) -> None:
    weights = [1.0, *[float(weight)] * (len(voices) - 1)]
    ours = sum(w * fusion.standardised(scores) for w, scores in zip(weights, voices, strict=True))
    totals = np.zeros(5)
    for w, scores in zip(weights, voices, strict=True):
        one = Fusion((Stage(FirstStage()),), method="z-score")
        ranking = _ranked(one, scores)
        totals += w * ranking
    assert np.allclose(ours, totals)


def _ranked(strategy: Fusion, scores: list[float]) -> Any:
    # A first stage asks nobody.
    ranking = run(strategy.plan(Pool(len(scores), scores=tuple(scores))), Oracle([0.0] * len(scores)), len(scores))
    return np.array(ranking.scores)


def test_a_grid_that_is_too_fine_is_refused() -> None:
    measured, signals = made_up(2)
    grid = [float(i) for i in range(150)]
    with pytest.raises(ConfigInvalid, match=r"22,500 points; 20,000 are the most"):
        fusion.fitted([measured], {"made up": signals}, recipe(good=grid, half=grid))


def test_the_pipeline_is_one_that_podium_reads() -> None:
    signals = [
        {"name": "m", "model": "students/late", "voice": "maxsim"},
        {"name": "c", "model": "students/late", "voice": "cosine"},
        {"name": "x", "model": "other/late", "voice": "logit"},
        {"name": "0", "model": "first-stage"},
        {"name": "dropped", "model": "students/dropped"},
    ]
    fusing = parse({"signal": signals, "development": DEVELOPMENT}, where="f.toml")
    assert isinstance(fusing, Fusing)
    text = fusion.pipeline(fusing, {"m": 1.0, "c": 0.8, "x": 0.75, "0": 0.2, "dropped": 0.0})
    builtin = {"pipelines": {"fast": {"stages": [{"strategy": "first-stage"}]}}}
    given_ = tomllib.loads(text)
    read = config.parse({**given_, "pipelines": {**builtin["pipelines"], **given_["pipelines"]}}, where="pipeline.toml")
    assert set(read.models) == {"late", "late-1"}
    assert read.models["late-1"].backend == "cross-encoder"
    voices = given_["pipelines"]["fused"]["stages"][0]["of"]
    assert [voice["weight"] for voice in voices] == [1.0, 0.8, 0.75, 0.2]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"signal": [{"name": "a", "model": "x"}]}, "two or more are needed"),
        ({"signal": [{"name": "a", "model": "x"}, {"name": "a", "model": "y"}]}, "each with its own name"),
        ({"development": [{"path": "a", "after": True}]}, "lists that decide"),
        (
            {"signal": [{"name": "a", "model": "x", "weight": [1]}]},
            "signal.0.weight: no such key; did you mean 'weights'?",
        ),
        ({"signal": [{"name": "a", "model": "x", "weights": [-1]}, {"name": "b", "model": "x"}]}, "from 0 on"),
        ({"signal": [{"name": name, "model": "x", "weights": [0]} for name in "ab"]}, "all weights are 0"),
    ],
)
def test_a_mistake_is_named(changes: Mapping[str, Any], said: str) -> None:
    whole = {
        "signal": [{"name": "a", "model": "x"}, {"name": "b", "model": "x"}],
        "development": DEVELOPMENT,
        **changes,
    }
    with pytest.raises(ConfigInvalid) as caught:
        parse(whole, where="f.toml")
    assert said in caught.value.message


def test_the_shipped_fusion_s_recipe_is_valid() -> None:
    file = Path(__file__).parents[2] / "training" / "fusion.toml"
    got = parse(tomllib.loads(file.read_text("utf-8")), where=str(file))
    assert isinstance(got, Fusing)
    assert all(entry.after == entry.paths[0].startswith("eval/") for entry in got.development)
