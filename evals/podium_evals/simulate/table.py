"""Every strategy with the simulated judge: what it finds and what it takes, at three noise levels."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, fields, replace
from itertools import product
from multiprocessing import get_context

import numpy as np
from ir_measures import nDCG
from numpy.typing import NDArray

from podium_evals.measures import measure
from podium_evals.results import Ranking
from podium_evals.runner import Here, run_pipeline
from podium_evals.simulate.chat import SimulatedChat
from podium_evals.simulate.clock import Run, run
from podium_evals.simulate.endpoint import Endpoint, Latency
from podium_evals.simulate.judge import Judge
from podium_evals.simulate.knowledge import Knowledge
from podium_evals.simulate.noise import LEVELS
from podium_evals.simulate.strategies import LOCAL, ROWS, Given, Row
from podium_evals.suite import Suite, Topic
from podium_server.accounting.prices import Prices
from podium_server.config import load
from podium_server.judges.case import Candidate, Case
from podium_server.judges.chat.judge import ChatJudge
from podium_strategies import prompts
from podium_strategies.plan import Strategy
from podium_strategies.prompts.prompt import MALFORMED

PRICES = Prices(prompt_usd_per_mtok=0.10, cached_usd_per_mtok=0.05, output_usd_per_mtok=0.40, version="stated")
"""The rate at which the table counts money: round numbers of the size that small hosted models cost, nobody's list."""

SIMULATED_LEVELS = ("low", "medium", "high")
MAIN = nDCG @ 10


@dataclass(frozen=True, slots=True)
class Setting:
    """What a table is made with.

    Args:
        suite: with candidates and judgments.
        local: the local stages' answers, by qid and pipeline.
        seeds: judges of each level.
        heavy_seeds: of these, how many for strategies that ask hundreds of questions a query.
        latency: of the simulated endpoint.
        prices: of its calls.
        processes: that work side by side.

    """

    suite: Suite
    local: Mapping[str, Mapping[str, Given]]
    seeds: int = 2
    heavy_seeds: int = 1
    latency: Latency = field(default_factory=Latency)
    prices: Prices = PRICES
    processes: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.heavy_seeds <= self.seeds:
            raise ValueError(f"heavy_seeds is {self.heavy_seeds} and seeds is {self.seeds}: 1 to seeds")


@dataclass(frozen=True, slots=True)
class Cell:
    """A strategy at one level: means over queries and seeds; `ndcg` is (seeds, queries) float64."""

    row: str
    level: str
    ndcg: NDArray[np.float64]
    calls: float
    rounds: float
    prompt_tokens: float
    cached_tokens: float
    output_tokens: float
    usd: float
    latency_s: float
    malformed: float
    unreadable: float

    @property
    def mean(self) -> float:
        """Return nDCG@10 over queries and seeds."""
        return float(self.ndcg.mean())


def local_answers(suite: Suite) -> dict[str, dict[str, Given]]:
    """Run the built-in pipelines that ask nobody elsewhere over a suite; return their orders, as strategies."""
    found: dict[str, dict[str, Given]] = {topic.qid: {} for topic in suite.topics}
    for name in LOCAL:
        system = asyncio.run(run_pipeline(suite, Here(load(None)), name))
        for topic, ranking in zip(suite.topics, system.rankings, strict=True):
            found[topic.qid][name] = _given(topic, ranking)
    return found


def _given(topic: Topic, ranking: Ranking) -> Given:
    place = {passage.docid: index for index, passage in enumerate(topic.candidates)}
    scores: list[float | None] = [None] * len(place)
    for docid, score in zip(ranking.docids, ranking.scores, strict=True):
        scores[place[docid]] = score
    return Given(tuple(place[docid] for docid in ranking.docids), tuple(scores))


def table(
    setting: Setting,
    rows: Sequence[Row] = ROWS,
    levels: Sequence[str] = SIMULATED_LEVELS,
    tell: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> list[Cell]:
    """Run every row at every level.

    Args:
        setting: what with.
        rows: which strategies.
        levels: by name.
        tell: is told after every part: what, how many are done, and of how many.

    """
    parts = [
        (row, level, seed)
        for row, level in product(rows, levels)
        for seed in range(setting.heavy_seeds if row.heavy else setting.seeds if row.prompt else 1)
    ]
    # The longest first, so that nobody waits for one at the end.
    parts.sort(key=lambda part: (not part[0].heavy, "round-robin" not in part[0].name))
    found: dict[tuple[str, str, int], Cell] = {}
    processes = setting.processes or os.cpu_count() or 1
    names = {row.name: place for place, row in enumerate(ROWS)}
    if processes == 1 or any(row.name not in names for row in rows):
        _begin(setting)
        for done, part in enumerate(parts, start=1):
            found[part[0].name, part[1], part[2]] = _part(*part)
            tell(part[0].name, done, len(parts))
    else:
        with ProcessPoolExecutor(processes, get_context("spawn"), _begin, (_portable(setting),)) as pool:
            futures = {
                pool.submit(_numbered, names[row.name], level, seed): (row.name, level, seed)
                for row, level, seed in parts
            }
            for done, future in enumerate(as_completed(futures), start=1):
                found[futures[future]] = future.result()
                tell(futures[future][0], done, len(parts))
    return [
        _joined([found[part] for part in sorted(found) if part[:2] == (row.name, level)])
        for row, level in product(rows, levels)
    ]


def _portable(setting: Setting) -> Setting:
    """Return a setting that can travel to another process: a suite's read-only mappings cannot."""
    graded = {qid: dict(grades) for qid, grades in setting.suite.qrels.items()}
    return replace(setting, suite=replace(setting.suite, qrels=graded, corpus=dict(setting.suite.corpus)))


# --- one part, in its process -----------------------------------------------------------------------------------------

_work: dict[str, tuple[Setting, Knowledge]] = {}


def _begin(setting: Setting) -> None:
    _work["now"] = setting, Knowledge(setting.suite)


def _numbered(number: int, level: str, seed: int) -> Cell:
    """Run a row by its number: a row holds functions, which do not travel between processes."""
    return _part(ROWS[number], level, seed)


def _part(row: Row, level: str, seed: int) -> Cell:
    setting, knowledge = _work["now"]
    judge = Judge(knowledge, LEVELS[level], seed)
    runs = {
        topic.qid: rank(topic, row.build(setting.local[topic.qid]), row.prompt, judge, setting)
        for topic in setting.suite.topics
    }
    orders = {
        topic.qid: [topic.candidates[place].docid for place in runs[topic.qid].order] for topic in setting.suite.topics
    }
    values = measure(orders, setting.suite.qrels, (MAIN,)).values[str(MAIN)]
    done = list(runs.values())

    def mean(amount: Callable[[Run], float]) -> float:
        return sum(map(amount, done)) / len(done)

    return Cell(
        row=row.name,
        level=level,
        ndcg=values[None, :],
        calls=mean(lambda one: one.usage.calls),
        rounds=mean(lambda one: one.rounds),
        prompt_tokens=mean(lambda one: one.usage.prompt_tokens),
        cached_tokens=mean(lambda one: one.usage.cached_tokens),
        output_tokens=mean(lambda one: one.usage.output_tokens),
        usd=mean(lambda one: (setting.prices.charge(one.usage).cost_nano_usd or 0) / 1e9),
        latency_s=mean(lambda one: one.latency_s),
        malformed=mean(lambda one: sum(one.usage.repairs.get(kind.value, 0) for kind in MALFORMED)),
        unreadable=mean(lambda one: one.usage.repairs.get("unreadable", 0)),
    )


def rank(topic: Topic, strategy: Strategy, prompt: str, judge: Judge, setting: Setting) -> Run:
    """Run one strategy over one list, with an endpoint that nobody has warmed."""
    chat = SimulatedChat(judge, Endpoint(setting.latency))
    asked = ChatJudge(chat, prompts.load(prompt or "listwise-json"))
    candidates = tuple(Candidate(passage.docid, passage.text, passage.score) for passage in topic.candidates)
    return run(strategy, Case(topic.query, candidates), asked, chat)


def _joined(cells: Sequence[Cell]) -> Cell:
    """Return the mean of several seeds."""
    amounts = [item.name for item in fields(Cell) if item.name not in ("row", "level", "ndcg")]
    means = {name: sum(getattr(cell, name) for cell in cells) / len(cells) for name in amounts}
    return replace(cells[0], ndcg=np.concatenate([cell.ndcg for cell in cells]), **means)
