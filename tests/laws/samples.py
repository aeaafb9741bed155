"""Which options of the registered strategies the laws are tried with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from podium_strategies.cascade import Stage
from podium_strategies.early_exit import EarlyExit
from podium_strategies.listwise import SlidingWindow, TopDown
from podium_strategies.pairwise import PairwiseHeapsort
from podium_strategies.plan import Strategy
from podium_strategies.pointwise import FirstStage, Pointwise
from podium_strategies.registry import build, names
from podium_strategies.selective import Selective
from podium_strategies.setwise import SetwiseHeapsort
from podium_strategies.tournament import TourRank

JOINED_VOTES = TourRank(size=6)
"""A base whose rulings move candidates past others of whom nothing was asked. Each of its orders keeps law 5, as a
ruling sets more pairs right than wrong; an order joined from several of them need not."""

OPTIONS: Mapping[str, list[dict[str, Any]]] = {
    "pairwise-round-robin": [{}, {"both_orders": False}],
    "pairwise-heapsort": [{}, {"k": 3, "both_orders": False}, {"k": 100}],
    "pairwise-bubble": [{"k": 4}, {"k": 2, "both_orders": False}],
    "pairwise-knockout": [{}, {"k": 1}, {"k": 100}],
    "pairwise-swiss": [{}, {"rounds": 2, "both_orders": False}],
    "setwise-heapsort": [{}, {"c": 2, "k": 4}, {"c": 10, "k": 100}],
    "setwise-bubble": [{}, {"c": 5, "k": 3}, {"k": 100}],
    "sliding-window": [{}, {"size": 4, "stride": 2, "passes": 3}, {"size": 7, "stride": 3}],
    "first": [{"size": 5, "stride": 2}],
    "tdpart": [{}, {"size": 5, "cutoff": 2}, {"size": 8, "cutoff": 4}, {"size": 3, "cutoff": 2, "partitions": 2}],
    "jointrank": [{}, {"size": 6, "replicas": 3, "aggregate": "winrate"}],
    "tourrank": [{}, {"r": 3}, {"size": 4}, {"size": 7, "r": 2}],
    "acurank": [{}, {"size": 6, "k": 3, "tau": 2}, {"size": 5, "repeats_max": 1}],
    "self-consistency": [
        {"m": 3},
        {"base": SlidingWindow(6, 3), "m": 2, "aggregate": "borda"},
        {"base": SetwiseHeapsort(k=3), "m": 3, "aggregate": "rrf"},
        {"base": JOINED_VOTES, "m": 2},
    ],
    "cascade": [
        {"stages": (Stage(Pointwise(), "fast", keep=15), Stage(SlidingWindow(6, 3), "strong"))},
        {"stages": (Stage(SlidingWindow(8, 4, passes=2), "fast", keep=8), Stage(PairwiseHeapsort(k=3), "strong"))},
        {"stages": (Stage(TopDown(6, 3), "", keep=12), Stage(SetwiseHeapsort(k=5)))},
        {"stages": (Stage(Pointwise(), "fast", keep=15), Stage(Selective(SlidingWindow(6, 3), 0.5, k=3), "strong"))},
        {"stages": (Stage(EarlyExit(k=5, bound=2.0), "early", keep=5), Stage(SlidingWindow(), "late"))},
    ],
    "fusion": [{"of": (Stage(FirstStage()), Stage(Pointwise(), "a", weight=2.0), Stage(SlidingWindow(6, 3), "b"))}],
    "mmr": [{}, {"balance": 1.0}, {"k": 3}],
    "feedback": [{}, {"weight": 0.0}, {"sharpness": 0.0, "top": 3, "share": 1.0}],
    "early-exit": [
        {},
        {"bound": 0.0, "k": 3, "wave": 1},
        {"bound": 4.0, "slope": 0.5, "intercept": -1.0, "k": 5, "wave": 100},
        {"bound": 4.0, "strong_max": 7},
        {"strong_max": 4},
    ],
    "selective": [
        {},
        {"threshold": 0.5},
        {"threshold": 0.1, "k": 1, "base": EarlyExit(k=4, bound=1.0)},
        {"threshold": 0.3, "k": 3, "base": SetwiseHeapsort(k=3)},
    ],
}


def cases() -> dict[str, Strategy]:
    """Return every registered strategy, by name and number of its options: one that nobody knows with none."""
    return {
        f"{name}-{number}" if number else name: build(name, options)
        for name in names()
        for number, options in enumerate(OPTIONS.get(name, [{}]))
    }
