"""A third party's strategy comes in by the same door and keeps the same laws."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

import pytest

from podium_strategies import registry
from podium_strategies.permutation import front
from podium_strategies.plan import Pick, Plan, PlanError, Ranking, Strategy, ask
from podium_strategies.pool import Pool
from tests.laws import laws
from tests.laws.samples import cases


@dataclass(frozen=True, slots=True)
class Champion(Strategy):
    """Asks for the best of all, `k` times."""

    kinds = (Pick,)

    k: int = 2

    def promised(self, n: int) -> int:
        return min(self.k, n)

    def ceiling(self, n: int) -> int:
        return min(self.k, n)

    def plan(self, pool: Pool) -> Plan[Ranking]:
        chosen: list[int] = []
        while len(chosen) < min(self.k, pool.n):
            order = front(chosen, range(pool.n))
            chosen.append((yield from ask(Pick(order[len(chosen) :]), order)))
        return Ranking(front(chosen, range(pool.n)))


@dataclass(frozen=True, slots=True)
class Lawless(Champion):
    """Drops the last candidate."""

    def plan(self, pool: Pool) -> Plan[Ranking]:
        ranking = yield from Champion(self.k).plan(pool)
        return Ranking(ranking.order[:-1])


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module: Any = ModuleType("somebodys_package")
    module.Champion, module.Lawless, module.NOT_A_STRATEGY = Champion, Lawless, object
    monkeypatch.setitem(sys.modules, "somebodys_package", module)
    extra = [
        EntryPoint("champion", "somebodys_package:Champion", registry.GROUP),
        EntryPoint("lawless", "somebodys_package:Lawless", registry.GROUP),
        EntryPoint("nonsense", "somebodys_package:NOT_A_STRATEGY", registry.GROUP),
    ]

    def with_extra(*, group: str, name: str | None = None) -> list[EntryPoint]:
        points = [*entry_points(group=group), *extra]
        return [point for point in points if name is None or point.name == name]

    monkeypatch.setattr(registry, "entry_points", with_extra)
    registry.installed.cache_clear()
    yield
    registry.installed.cache_clear()


@pytest.mark.usefixtures("installed")
def test_a_plug_in_is_listed_built_and_keeps_every_law() -> None:
    assert "champion" in registry.names()
    laws.all_laws(registry.build("champion", {}))
    laws.all_laws(registry.build("champion", {"k": 5}))


@pytest.mark.usefixtures("installed")
def test_a_plug_in_that_breaks_a_law_is_found_out() -> None:
    with pytest.raises(PlanError, match="not a permutation"):
        laws.all_laws(registry.build("lawless", {}))


@pytest.mark.usefixtures("installed")
def test_what_is_no_strategy_is_refused() -> None:
    with pytest.raises(TypeError, match="no subclass of Strategy"):
        registry.load("nonsense")
    with pytest.raises(registry.UnknownStrategy, match="did you mean 'champion'"):
        registry.load("champoin")
    with pytest.raises(registry.InvalidOption, match="no option 'kk'; did you mean 'k'"):
        registry.build("champion", {"kk": 1})


def test_a_process_looks_for_strategies_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    def counted(*, group: str) -> list[EntryPoint]:
        looks.append(group)
        return list(entry_points(group=group))

    monkeypatch.setattr(registry, "entry_points", counted)
    registry.installed.cache_clear()
    for _ in range(3):
        registry.build("first-stage", {})
        with pytest.raises(registry.UnknownStrategy):
            registry.load("nobody")
    assert looks == [registry.GROUP], "a request with stages of its own would pay for each look"


def test_every_registered_strategy_is_among_the_cases() -> None:
    ours = {
        "pointwise",
        "pairwise-round-robin",
        "pairwise-heapsort",
        "pairwise-bubble",
        "pairwise-knockout",
        "pairwise-swiss",
        "setwise-heapsort",
        "setwise-bubble",
        "sliding-window",
        "first",
        "tdpart",
        "jointrank",
        "tourrank",
        "acurank",
        "self-consistency",
        "first-stage",
        "cascade",
        "fusion",
        "mmr",
        "feedback",
        "early-exit",
        "selective",
    }
    assert ours <= set(registry.names())
    assert ours <= set(cases())


def test_a_strategy_of_strategies_asks_what_they_ask() -> None:
    for name, strategy in cases().items():
        parts = [stage.strategy for stage in getattr(strategy, "stages", getattr(strategy, "of", ()))]
        parts += [strategy.base] if hasattr(strategy, "base") else []
        for part in parts:
            assert part.asks <= strategy.asks, name
