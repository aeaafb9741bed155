"""What the table compares, and what the papers say of the same strategies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from podium_strategies.acurank import AcuRank
from podium_strategies.cascade import Cascade, Stage
from podium_strategies.consistency import SelfConsistency
from podium_strategies.listwise import First, JointRank, SlidingWindow, TopDown
from podium_strategies.pairwise import Knockout, PairwiseBubble, PairwiseHeapsort, RoundRobin, Swiss
from podium_strategies.plan import Plan, Ranking, Scale, Strategy
from podium_strategies.pointwise import FirstStage, Pointwise
from podium_strategies.pool import Pool
from podium_strategies.setwise import SetwiseBubble, SetwiseHeapsort
from podium_strategies.tournament import TourRank

BASELINE = "sliding-window"
"""One pass of 20/10 over the first stage's list: what every other row is compared with."""

LOCAL = ("fast", "balanced")
"""The pipelines of the built-in configuration that cost no call of a model elsewhere."""


@dataclass(frozen=True, slots=True)
class Given(Strategy):
    """The order that a local stage has given already; it asks nothing here.

    Args:
        order: of the pool.
        scores: by item.

    """

    order: tuple[int, ...]
    scores: tuple[float | None, ...]

    @property
    def scale(self) -> Scale | None:
        return Scale.PRIOR

    def plan(self, pool: Pool) -> Plan[Ranking]:
        yield from ()
        return Ranking(self.order, self.scores)


@dataclass(frozen=True, slots=True)
class Row:
    """A strategy with its prompt.

    Args:
        name: in the table.
        strategy: over the first stage's list, or over what the local stage keeps.
        prompt: by name; empty where no model is asked.
        keep: candidates that the local stage passes on; 0 where there is none.
        heavy: asks so much that one seed has to do.
        local: which local stage, of `LOCAL`.

    """

    name: str
    strategy: Callable[[], Strategy]
    prompt: str = ""
    keep: int = 0
    heavy: bool = False
    local: str = "fast"

    def build(self, given: Mapping[str, Given]) -> Strategy:
        """Return the strategy for one list, the answer of its local stage before it where there is one."""
        if not self.keep:
            return self.strategy()
        return Cascade((Stage(given[self.local], keep=self.keep), Stage(self.strategy())))


def _alone() -> tuple[Row, ...]:
    listwise, pairs, sets = "listwise-json", "pairwise", "setwise"
    return (
        Row("first-stage", FirstStage),
        Row("pointwise-yes-no", Pointwise, "yes-no"),
        Row("pointwise-graded", Pointwise, "graded"),
        Row("pairwise-round-robin", RoundRobin, pairs, heavy=True),
        Row("pairwise-heapsort", PairwiseHeapsort, pairs, heavy=True),
        Row("pairwise-bubble", PairwiseBubble, pairs, heavy=True),
        Row("pairwise-knockout", Knockout, pairs, heavy=True),
        Row("pairwise-swiss", Swiss, pairs, heavy=True),
        Row("setwise-heapsort c=3", SetwiseHeapsort, sets),
        Row("setwise-heapsort c=10", lambda: SetwiseHeapsort(c=10), sets),
        Row("setwise-bubble c=3", SetwiseBubble, sets, heavy=True),
        Row(BASELINE, SlidingWindow, listwise),
        Row("sliding-window 2 passes", lambda: SlidingWindow(passes=2), listwise),
        Row("first", First, "first"),
        Row("tdpart", TopDown, listwise),
        Row("jointrank r=2", JointRank, listwise),
        Row("jointrank r=3", lambda: JointRank(replicas=3), listwise),
        Row("tourrank r=1", TourRank, "choose-best"),
        Row("tourrank r=2", lambda: TourRank(r=2), "choose-best"),
        Row("acurank", AcuRank, listwise),
        Row("self-consistency m=5", lambda: SelfConsistency(m=5), listwise),
    )


def _of_fewer() -> tuple[Row, ...]:
    """Return rows over the beginning of the first stage's list, which saves tokens without any model at hand."""
    return (
        Row("first-stage 30 > sliding-window", lambda: _over(30, SlidingWindow()), "listwise-json"),
        Row("first-stage 50 > sliding-window", lambda: _over(50, SlidingWindow()), "listwise-json"),
        Row("first-stage 50 > first", lambda: _over(50, First()), "first"),
        Row("first-stage 50 > tdpart", lambda: _over(50, TopDown()), "listwise-json"),
    )


def _over(keep: int, strategy: Strategy) -> Strategy:
    return Cascade((Stage(FirstStage(), keep=keep), Stage(strategy)))


def _behind_local() -> tuple[Row, ...]:
    listwise = "listwise-json"
    return (
        Row("fast", FirstStage, keep=100),
        Row("fast 10 > window", SlidingWindow, listwise, keep=10),
        Row("fast 20 > window", SlidingWindow, listwise, keep=20),
        Row("fast 20 > first", First, "first", keep=20),
        Row("fast 20 > 3 shuffled windows", lambda: SelfConsistency(m=3), listwise, keep=20),
        Row("fast 20 > 5 shuffled windows", lambda: SelfConsistency(m=5), listwise, keep=20),
        Row("fast 20 > pointwise-graded", Pointwise, "graded", keep=20),
        Row("fast 20 > setwise-heapsort c=3", SetwiseHeapsort, "setwise", keep=20),
        Row("fast 20 > pairwise-round-robin", RoundRobin, "pairwise", keep=20, heavy=True),
        Row("fast 30 > sliding-window", SlidingWindow, listwise, keep=30),
        Row("fast 30 > pointwise-graded", Pointwise, "graded", keep=30),
        Row("fast 40 > jointrank r=2", JointRank, listwise, keep=40),
        Row("fast 40 > jointrank r=4", lambda: JointRank(replicas=4), listwise, keep=40),
        Row("fast 40 > tdpart", TopDown, listwise, keep=40),
        Row("fast 40 > first", First, "first", keep=40),
        Row("fast 50 > sliding-window", SlidingWindow, listwise, keep=50),
        Row("fast 50 > 2 passes", lambda: SlidingWindow(passes=2), listwise, keep=50),
        Row("fast 50 > 3 shuffled runs", lambda: SelfConsistency(m=3), listwise, keep=50),
        Row("fast 50 > acurank", AcuRank, listwise, keep=50),
        Row("fast 50 > tourrank r=2", lambda: TourRank(r=2), "choose-best", keep=50),
        Row("fast 50 > tourrank r=5", lambda: TourRank(r=5), "choose-best", keep=50),
        Row("fast 100 > sliding-window", SlidingWindow, listwise, keep=100),
        Row("fast 100 > acurank", AcuRank, listwise, keep=100),
        Row("balanced", FirstStage, keep=100, local="balanced"),
        Row("balanced 20 > window", SlidingWindow, listwise, keep=20, local="balanced"),
        Row("balanced 20 > first", First, "first", keep=20, local="balanced"),
        Row("balanced 30 > sliding-window", SlidingWindow, listwise, keep=30, local="balanced"),
    )


ROWS = (*_alone(), *_of_fewer(), *_behind_local())


@dataclass(frozen=True, slots=True)
class Published:
    """A figure of a paper: nDCG@10 on TREC DL 2019 over BM25's first hundred.

    Args:
        row: that it is of.
        model: that judged.
        ndcg: as printed.
        source: by arXiv id; `2nd` where it was read in another paper.

    """

    row: str
    model: str
    ndcg: float
    source: str


_XL = "Flan-T5-XL"
_GPT = "GPT-4.1"
PUBLISHED = (
    Published("pointwise-yes-no", _XL, 0.650, "2310.09497"),
    Published("pairwise-round-robin", _XL, 0.713, "2310.09497"),
    Published("pairwise-heapsort", _XL, 0.705, "2310.09497"),
    Published("setwise-heapsort c=3", _XL, 0.693, "2310.09497"),
    Published("setwise-bubble c=3", _XL, 0.705, "2310.09497"),
    Published("pairwise-heapsort", _GPT, 0.748, "2505.18512"),
    Published("setwise-heapsort c=3", _GPT, 0.735, "2505.18512"),
    Published("sliding-window", _GPT, 0.740, "2505.18512"),
    Published("tourrank r=1", _GPT, 0.726, "2505.18512"),
    Published("tourrank r=2", _GPT, 0.745, "2505.18512"),
    Published("acurank", _GPT, 0.742, "2505.18512"),
    Published("sliding-window", "RankVicuna-7B", 0.668, "2309.15088"),
    Published("sliding-window", "RankZephyr-7B", 0.737, "2312.02724"),
    Published("sliding-window", "GPT-4", 0.756, "2304.09542, 2nd"),
    Published("first", "FIRST (Zephyr-7B)", 0.729, "2406.15657"),
    Published("jointrank r=2", "GPT-4.1-mini", 0.709, "2506.22262"),
)
