"""The table of calls and depth: what each strategy asks here, beside what was published for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from podium_strategies.acurank import AcuRank
from podium_strategies.consistency import SelfConsistency
from podium_strategies.forecast import forecast
from podium_strategies.listwise import First, JointRank, SlidingWindow, TopDown
from podium_strategies.pairwise import Knockout, PairwiseBubble, PairwiseHeapsort, RoundRobin, Swiss
from podium_strategies.plan import PlanTooLarge, Strategy
from podium_strategies.pointwise import Pointwise
from podium_strategies.pool import Pool
from podium_strategies.setwise import SetwiseBubble, SetwiseHeapsort
from podium_strategies.tournament import TourRank


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. Numbers are None where the strategy refuses a pool of that size.

    Args:
        name: as the strategy is registered.
        options: those that differ from the defaults.
        questions: expected number, under seeded truthful oracles.
        questions_max: no answers can bring about more.
        rounds: expected length of the longest chain.
        documents: expected number of documents shown.
        published_calls: for 100 candidates and the best 10, as `source` has it.
        published_depth: likewise.
        source: the paper; "counted" where the number comes from a simulator and a truthful oracle.

    """

    name: str
    options: str
    questions: float | None
    questions_max: int | None
    rounds: float | None
    documents: float | None
    published_calls: str
    published_depth: str
    source: str


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    options: str
    build: Callable[[int], Strategy]
    calls: str
    depth: str
    source: str


_ENTRIES = (
    _Entry("pointwise", "", lambda k: Pointwise(), "100", "1", "arXiv 2306.17563"),
    _Entry("pairwise-round-robin", "", lambda k: RoundRobin(), "9,900", "1", "arXiv 2306.17563"),
    _Entry(
        "pairwise-heapsort",
        "",
        lambda k: PairwiseHeapsort(k=k),
        "236–278 compares x 2 orders (papers: 227–244)",
        "46–48",
        "counted; arXiv 2310.09497",
    ),
    _Entry(
        "pairwise-bubble",
        "",
        lambda k: PairwiseBubble(k=k),
        "990 compares x 2 orders",
        "117",
        "arXiv 2306.17563; counted",
    ),
    _Entry("pairwise-knockout", "", lambda k: Knockout(k=k), "–", "–", "–"),
    _Entry("pairwise-swiss", "", lambda k: Swiss(), "–", "–", "–"),
    _Entry(
        "setwise-heapsort",
        "c=3",
        lambda k: SetwiseHeapsort(c=3, k=k),
        "119–140 (papers: 124–130)",
        "30",
        "counted; arXiv 2310.09497",
    ),
    _Entry("setwise-heapsort", "c=10", lambda k: SetwiseHeapsort(c=10, k=k), "30", "22", "counted"),
    _Entry("setwise-heapsort", "c=20", lambda k: SetwiseHeapsort(c=20, k=k), "20–23", "16–19", "counted"),
    _Entry("setwise-bubble", "c=3", lambda k: SetwiseBubble(c=3, k=k), "439–464", "63", "counted"),
    _Entry("sliding-window", "", lambda k: SlidingWindow(), "9", "9", "arXiv 2304.09542"),
    _Entry("sliding-window", "passes=2", lambda k: SlidingWindow(passes=2), "18", "11", "counted"),
    _Entry("sliding-window", "passes=3", lambda k: SlidingWindow(passes=3), "27", "13", "counted"),
    _Entry("first", "", lambda k: First(), "9", "9", "arXiv 2406.15657"),
    _Entry("tourrank", "r=1", lambda k: TourRank(), "13", "5", "arXiv 2406.11678"),
    _Entry("tourrank", "r=2", lambda k: TourRank(r=2), "26", "5", "arXiv 2406.11678"),
    _Entry("tdpart", "", lambda k: TopDown(), "≤ 7", "3", "arXiv 2405.14589"),
    _Entry("jointrank", "", lambda k: JointRank(), "10", "1", "arXiv 2506.22262"),
    _Entry("acurank", "", lambda k: AcuRank(k=k), "9–25, 13 typical", "6–10", "arXiv 2505.18512"),
    _Entry(
        "self-consistency",
        "m=20 of sliding-window",
        lambda k: SelfConsistency(),
        "m x base",
        "base",
        "arXiv 2310.07712",
    ),
)


def calls_and_depth(n: int = 100, k: int = 10) -> list[Row]:
    """Forecast every strategy over `n` candidates of which the best `k` are wanted."""
    return [_row(entry, n, k) for entry in _ENTRIES]


def _row(entry: _Entry, n: int, k: int) -> Row:
    try:
        quote = forecast(entry.build(k), Pool(n))
    except PlanTooLarge:
        quote = None
    return Row(
        name=entry.name,
        options=entry.options,
        questions=quote.questions if quote else None,
        questions_max=quote.questions_max if quote else None,
        rounds=quote.rounds if quote else None,
        documents=quote.documents if quote else None,
        published_calls=entry.calls,
        published_depth=entry.depth,
        source=entry.source,
    )
