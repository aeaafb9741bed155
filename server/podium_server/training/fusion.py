"""The weights of a fusion, fitted on development lists: a grid, and the mean of its best points.

A fusion adds what its voices say of each document, each voice standardised over the list (`podium_strategies.fusion`,
method `z-score`). Development lists are few, and the best point of a grid is partly luck; the mean of the best points
is where they agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podium_server.errors import ConfigInvalid
from podium_server.recall.lexical import scores, transpose
from podium_server.recall.text import document_terms, query_terms
from podium_server.training.development import Measured, mean
from podium_server.training.recipe import FIRST_STAGE, Fusing
from podium_strategies.fusion import z_scores

POINTS_MAX = 20_000
"""Of a grid: each is measured on every list."""
BEST_POINTS = 15
BEST_SHARE = 1 / 6
"""Of a small grid, so many at most: the mean of all its points would be its middle."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fitted:
    """Weights, and what they came from.

    Args:
        weights: of each signal; 0 leaves it out.
        points: of the grid that were measured.
        averaged: how many of the best the weights are the mean of.
        best: of these the best one's mean nDCG@10 over the sets.
        value: of the fitted weights.

    """

    weights: dict[str, float]
    points: int
    averaged: int
    best: float
    value: float


def standardised(own: Sequence[float]) -> Floats:
    """Return one voice's scores of a list as a fusion adds them up."""
    return np.array(z_scores(list(own)), np.float64)


def first_stage(sets: Measured) -> list[Floats]:
    """Return of each list what a first stage says whose scores are BM25's, over all passages of the set.

    Lists for development have mostly no first stage's scores, and many no first stage.
    """
    at: dict[str, int] = {}
    for each in sets.lists:
        for text in each.texts:
            at.setdefault(text, len(at))
    terms, counts, lengths = zip(*(document_terms(text) for text in at), strict=True)
    postings, of_pool = (transpose(0, terms, counts),), np.array(lengths, np.int32)
    result = []
    for each in sets.lists:
        found = scores(postings, query_terms(each.query), of_pool)
        result.append(standardised([float(found[at[text]]) for text in each.texts]))
    return result


def values(judged: Measured, signals: Mapping[str, Sequence[Floats]], weights: Mapping[str, float]) -> dict[str, float]:
    """Return nDCG@10 of each query of a set, with these weights."""
    sums = []
    for place, each in enumerate(judged.lists):
        total = np.zeros(len(each.texts))
        for name, weight in weights.items():
            total += weight * signals[name][place]
        sums.append(total.tolist())
    return judged.values(sums)


def fitted(sets: Sequence[Measured], signals: Mapping[str, Mapping[str, Sequence[Floats]]], recipe: Fusing) -> Fitted:
    """Search the grid of the recipe.

    Args:
        sets: that decide.
        signals: set → signal → list → standardised scores.
        recipe: with the weights that each signal may have.

    Raises:
        ConfigInvalid: the grid has too many points.

    """
    grids = [signal.weights for signal in recipe.signal]
    points = int(np.prod([len(grid) for grid in grids]))
    if points > POINTS_MAX:
        raise ConfigInvalid(f"the grid has {points:,} points; {POINTS_MAX:,} are the most. Give a signal fewer weights")
    names = [signal.name for signal in recipe.signal]
    total = sum(each.weight for each in sets)

    def measured(weights: Mapping[str, float]) -> float:
        return sum(each.weight * mean(values(each, signals[each.name], weights)) for each in sets) / total

    found = []
    for point in product(*grids):
        if any(point):
            weights = dict(zip(names, point, strict=True))
            found.append((measured(weights), point))
    found.sort(key=lambda each: -each[0])  # stable: of equal points the first of the grid
    averaged = max(1, min(BEST_POINTS, int(len(found) * BEST_SHARE)))
    best = np.array([point for _, point in found[:averaged]]).mean(axis=0)
    weights = {name: round(float(weight), 2) for name, weight in zip(names, best, strict=True)}
    return Fitted(weights, len(found), averaged, found[0][0], measured(weights))


def pipeline(recipe: Fusing, weights: Mapping[str, float]) -> str:
    """Return the models and the pipeline as a configuration has them (TOML)."""
    models: dict[str, str] = {}
    voices = []
    for signal in recipe.signal:
        weight = weights[signal.name]
        if weight <= 0:
            continue
        if signal.model == FIRST_STAGE:
            voices.append(f'  {{ strategy = "first-stage", weight = {weight:g} }},')
            continue
        model = models.setdefault(signal.model, _name(signal.model, models))
        scoring = {"maxsim": ', scoring = "late-interaction"', "cosine": ', scoring = "cosine"'}.get(
            signal.voice or "", ""
        )
        voices.append(f'  {{ strategy = "pointwise", model = "{model}"{scoring}, weight = {weight:g} }},')
    lines = []
    for path, name in models.items():
        backend = "cross-encoder" if _reads(recipe, path) else "openvino"
        lines += [f"[models.{name}]", f'backend = "{backend}"', f'model = "{path}"', ""]
    lines += ["[[pipelines.fused.stages]]", 'strategy = "fusion"', 'method = "z-score"', "of = [", *voices, "]", ""]
    return "\n".join(lines)


def _reads(recipe: Fusing, path: str) -> bool:
    return any(signal.model == path and signal.voice == "logit" for signal in recipe.signal)


def _name(path: str, taken: Mapping[str, Any]) -> str:
    plain = "".join(c if c.isalnum() else "-" for c in path.rstrip("/").rpartition("/")[2]).strip("-") or "model"
    return plain if plain not in taken.values() else f"{plain}-{len(taken)}"
