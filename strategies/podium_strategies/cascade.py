"""Stages, one behind the other, each over what the one before kept. A cascade is itself a strategy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from podium_strategies.permutation import front
from podium_strategies.plan import Plan, Question, Ranking, Scale, StageFailed, Strategy, within
from podium_strategies.pool import Pool


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a cascade or one voice of a fusion.

    Args:
        strategy: that orders the stage's pool.
        role: the judge that answers its questions, as the configuration binds it.
        keep: of its order, how many candidates a following stage sees; None for all.
        weight: of its voice in a fusion.

    """

    strategy: Strategy
    role: str = ""
    keep: int | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.keep is not None and self.keep < 1:
            raise ValueError(f"keep is {self.keep}: at least 1")


@dataclass(frozen=True, slots=True)
class Cascade(Strategy):
    """Runs stages in turn: each orders what the one before kept, and what was not kept stays behind, in its order.

    A stage that nobody can answer (`StageFailed`) is left out: the next one goes on with the order that stands.

    The multi-stage ranking of arXiv 1910.14424.
    """

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("a cascade needs at least one stage")
        for stage in self.stages:
            if not isinstance(stage, Stage):
                raise ValueError(f"a stage is {stage!r}, which is no Stage; a pipeline's own stages are a cascade")

    @property
    def asks(self) -> frozenset[type[Question[Any]]]:
        return frozenset().union(*(stage.strategy.asks for stage in self.stages))

    @property
    def scale(self) -> Scale | None:
        return self.stages[-1].strategy.scale

    def promised(self, n: int) -> int:
        """Return what the last stage promises where every stage before it keeps the truth."""
        for stage in self.stages[:-1]:
            kept = n if stage.keep is None else min(n, stage.keep)
            # A stage that keeps all loses nothing; one that cuts keeps the truth only as far as it promises.
            if kept < n and stage.strategy.promised(n) < kept:
                return 0
            n = kept
        return self.stages[-1].strategy.promised(n)

    def ceiling(self, n: int) -> int | None:
        most = 0
        varies = False
        for stage in self.stages:
            varies = varies or stage.strategy.ceiling(n) is not None
            most += most_asked(stage.strategy, n)
            n = n if stage.keep is None else min(n, stage.keep)
        return most if varies else None

    def plan(self, pool: Pool) -> Plan[Ranking]:
        if len(self.stages) == 1:
            # Nobody comes after it, so that nothing has to be kept, handed on or put together.
            (alone,) = self.stages
            try:
                return (yield from within(alone.strategy.plan(pool), range(pool.n), role=alone.role))
            except StageFailed as failed:
                return Ranking(failed.order)
        order = tuple(range(pool.n))
        scores: list[float | None] = list(pool.scores) if pool.scores is not None else [None] * pool.n
        kept = pool.n
        for stage in self.stages:
            items, rest = order[:kept], order[kept:]
            known = [scores[item] for item in items]
            prior = tuple(score for score in known if score is not None)
            inner = pool.take(items, prior if len(prior) == len(items) else None)
            try:
                ranking = yield from within(stage.strategy.plan(inner), items, rest, stage.role)
            except StageFailed as failed:
                # A following stage may still look at the scores that led here; they are not the last one's.
                ranking = Ranking(failed.order, tuple(known) if stage is not self.stages[-1] else None)
            # Scores of two stages cannot be compared, so whoever was not scored by this one has none.
            scores = [None] * pool.n
            if ranking.scores is not None:
                for item, score in zip(items, ranking.scores, strict=True):
                    scores[item] = score
            order = front(ranking.order, order)
            kept = min(kept, stage.keep) if stage.keep is not None else kept
        return Ranking(order, tuple(scores) if any(score is not None for score in scores) else None)


def most_asked(strategy: Strategy, n: int) -> int:
    """Return the most questions that a strategy asks over `n` candidates, whether or not the number varies."""
    from podium_strategies.forecast import forecast  # forecast knows strategies; only this bound needs it back

    bound = strategy.ceiling(n)
    return bound if bound is not None else round(forecast(strategy, Pool(n), seeds=(1,)).questions)
