"""Calls and depth for 100 candidates, the best 10 wanted, as the table has them."""

from __future__ import annotations

from typing import Any

import pytest

from podium_strategies.drive import Execution
from podium_strategies.forecast import Forecast, forecast
from podium_strategies.oracle import Oracle
from podium_strategies.plan import Strategy
from podium_strategies.pool import Pool
from podium_strategies.registry import build, names
from podium_strategies.table import calls_and_depth

EXACT = {
    ("pointwise", ()): (100, 1),
    ("pairwise-round-robin", ()): (9_900, 1),
    ("pairwise-round-robin", (("both_orders", False),)): (4_950, 1),
    ("pairwise-bubble", ()): (1_980, 117),
    ("sliding-window", ()): (9, 9),
    ("sliding-window", (("passes", 2),)): (18, 11),
    ("sliding-window", (("passes", 3),)): (27, 13),
    ("first", ()): (9, 9),
    ("tourrank", ()): (13, 5),
    ("tourrank", (("r", 2),)): (26, 5),
    ("tourrank", (("r", 10),)): (130, 5),
    ("jointrank", ()): (10, 1),
    ("self-consistency", (("m", 5),)): (45, 9),
}
RANGES = {
    ("pairwise-heapsort", ()): ((2 * 215, 2 * 300), (40, 50)),
    ("pairwise-knockout", ()): ((2 * 99, 2 * 200), (20, 45)),
    ("pairwise-swiss", ()): ((690, 700), (7, 7)),
    ("setwise-heapsort", ()): ((105, 150), (20, 32)),
    ("setwise-heapsort", (("c", 10),)): ((25, 35), (18, 22)),
    ("setwise-heapsort", (("c", 20),)): ((20, 25), (15, 20)),
    ("setwise-bubble", ()): ((400, 475), (63, 63)),
    ("tdpart", ()): ((6, 7), (2, 3)),
    ("acurank", ()): ((9, 25), (4, 10)),
}


def quotes(name: str, options: tuple[tuple[str, Any], ...]) -> list[Forecast]:
    strategy = build(name, dict(options))
    return [forecast(strategy, Pool(100), seeds=[seed]) for seed in range(12)]


@pytest.mark.parametrize(("key", "expected"), EXACT.items(), ids=str)
def test_the_number_that_never_varies(key: tuple[str, Any], expected: tuple[int, int]) -> None:
    quote = forecast(build(key[0], dict(key[1])), Pool(100))
    assert (quote.questions, quote.rounds) == expected
    assert quote.exact
    assert quote.questions_max == expected[0]


@pytest.mark.parametrize(("key", "expected"), RANGES.items(), ids=str)
def test_the_number_that_adapts(key: tuple[str, Any], expected: tuple[tuple[int, int], tuple[int, int]]) -> None:
    (least, most), (shallow, deep) = expected
    for quote in quotes(*key):
        assert least <= quote.questions <= most
        assert shallow <= quote.rounds <= deep
        assert quote.questions_max is not None
        assert quote.questions <= quote.questions_max


def test_every_strategy_of_the_papers_is_in_the_table() -> None:
    rows = calls_and_depth(20, 5)
    composed = {"cascade", "fusion", "mmr", "feedback", "first-stage", "early-exit", "selective"}
    assert {row.name for row in rows} >= set(names()) - composed - {"toy"}
    assert all(row.questions is not None and row.questions > 0 for row in rows)


def test_what_a_strategy_refuses_is_left_open_in_the_table() -> None:
    [row] = [row for row in calls_and_depth(600) if row.name == "pairwise-round-robin"]
    assert row.questions is None
    assert row.published_calls == "9,900"


def test_the_table_counts_documents_as_the_judges_read_them() -> None:
    rows = {(row.name, row.options): row for row in calls_and_depth()}
    assert rows["sliding-window", ""].documents == 9 * 20
    assert rows["tourrank", "r=1"].documents == 5 * 20 + 5 * 10 + 20 + 10 + 5
    assert rows["pairwise-round-robin", ""].documents == 2 * 9_900


@pytest.mark.parametrize("name", ["pairwise-heapsort", "setwise-heapsort", "setwise-bubble", "sliding-window"])
def test_depth_is_the_number_of_lockstep_rounds(name: str) -> None:
    """What a chain of calls costs is what a driver sees that answers everything at once."""
    strategy: Strategy = build(name, {"passes": 2} if name == "sliding-window" else {})
    oracle = Oracle.seeded(100, 5)
    execution = Execution(strategy.plan(Pool(100)), 100)
    ticks = 0
    while batch := execution.take():
        ticks += 1
        for asked in batch:
            for index, question in enumerate(asked.questions):
                execution.answer(asked.id, index, oracle.answer(question), cost=1.0)
    assert ticks == execution.depth == execution.critical_path


def test_a_heap_of_ten_thousand_is_planned_in_reasonable_steps() -> None:
    """A tree of forks looks at few waiting branches a move, or this would take minutes."""
    quote = forecast(build("setwise-heapsort", {}), Pool(10_000), seeds=[1])
    assert quote.rounds <= 40
    assert quote.questions <= 12_000
