"""The laws that every strategy keeps, each a function of a strategy. A plug-in's author calls them too."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from math import log2
from typing import Any

from podium_strategies.consistency import SelfConsistency
from podium_strategies.drive import Asked, Execution, run, run_many
from podium_strategies.forecast import forecast
from podium_strategies.fusion import Fusion
from podium_strategies.oracle import Oracle
from podium_strategies.permutation import is_permutation
from podium_strategies.plan import Permutation, Question, Ranking, Strategy
from podium_strategies.pool import Pool
from tests.laws.judges import Answer, as_shown, contrary, inversions, panel, truths, undecided, whimsical

JOINS = (Fusion, SelfConsistency)
SIZES = (*range(13), 19, 20, 21, 25, 30, 31, 39, 40)


def pools(n: int) -> list[Pool]:
    """Return pools of n candidates as first stages leave them: with scores, without, with logits, all alike."""
    falling = tuple(30.0 / (1 + item) for item in range(n))
    return [Pool(n), Pool(n, falling, seed=7), Pool(n, tuple(3.0 - item for item in range(n))), Pool(n, (1.0,) * n)]


def complete(strategy: Strategy, pool: Pool, answer: Answer) -> tuple[Ranking, list[Question[Any]]]:
    """Run a plan; return its ranking and every question that it asked."""
    asked: list[Question[Any]] = []

    def judge(questions: Iterable[Question[Any]]) -> list[Any]:
        batch = list(questions)
        asked.extend(batch)
        return [answer(question) for question in batch]

    return run(strategy.plan(pool), judge, pool.n), asked


def drive_at_random(strategy: Strategy, pool: Pool, answer: Answer, seed: int) -> Ranking:
    """Answer whichever open question comes up, as replies arrive at a server."""
    lots = random.Random(seed)
    execution = Execution(strategy.plan(pool), pool.n)
    still_open: list[tuple[Asked, int]] = []
    while True:
        still_open += [(asked, index) for asked in execution.take() for index in range(len(asked.questions))]
        if not still_open:
            break
        asked, index = still_open.pop(lots.randrange(len(still_open)))
        execution.answer(asked.id, index, answer(asked.questions[index]))
    assert execution.result is not None
    return execution.result


def it_returns_a_permutation(strategy: Strategy, n: int, seed: int) -> None:
    """Law 1: of its input, for every n, whatever the judge answers."""
    for pool in pools(n):
        for answer in (as_shown, undecided, contrary(n), whimsical(seed)):
            ranking, asked = complete(strategy, pool, answer)
            assert is_permutation(ranking.order, n)
            for question in asked:
                items = question.items
                assert set(items) <= set(range(n))
                assert len(set(items)) == len(items) or type(question).__name__ == "Liken"


def it_keeps_its_promise(strategy: Strategy, n: int) -> None:
    """Law 2: a truthful judge brings the best to the ranks that the strategy promises.

    A pool's scores are a judge's, too: where there are some, they tell the truth as well.
    """
    promised = strategy.promised(n)
    assert 0 <= promised <= n
    for oracle in truths(n):
        scores = [0.0] * n
        for place, item in enumerate(oracle.truth):
            scores[item] = float(n - place)
        for pool in (Pool(n), Pool(n, tuple(scores), seed=n)):
            ranking, _ = complete(strategy, pool, oracle.answer)
            assert ranking.order[:promised] == oracle.truth[:promised]


def lockstep_equals_alone(strategy: Strategy, n: int, seed: int) -> None:
    """Law 3: neither company nor the order in which answers come changes the result."""
    pool = Pool(n, seed=seed)
    for answer in (as_shown, contrary(n)):
        alone, _ = complete(strategy, pool, answer)
        others = [Pool(n, seed=seed + 1), pool, Pool(max(n - 1, 0))]
        many = run_many([(strategy.plan(other), other.n) for other in others], panel(answer))
        assert many[1] == alone
    oracle = Oracle.seeded(n, seed)
    alone, _ = complete(strategy, pool, oracle.answer)
    for driver_seed in (1, 2):
        assert drive_at_random(strategy, pool, oracle.answer, driver_seed) == alone


def the_forecast_is_right(strategy: Strategy, n: int, seed: int) -> None:
    """Law 4: it equals the questions asked, and bounds them where the strategy adapts; `asks` names their kinds."""
    for pool in pools(n)[:2]:
        quote = forecast(strategy, pool)
        ceiling = strategy.ceiling(n)
        assert quote.questions_max is not None
        for answer in (as_shown, undecided, contrary(n), whimsical(seed), Oracle.seeded(n, seed).answer):
            _, asked = complete(strategy, pool, answer)
            assert {type(question) for question in asked} <= strategy.asks
            if ceiling is None:
                assert len(asked) == quote.questions == quote.questions_max
            else:
                assert len(asked) <= ceiling == quote.questions_max


def stopping_does_no_harm(strategy: Strategy, n: int, seed: int) -> None:
    """Law 5: stopped at any time it returns a permutation no worse than the given one, where the judge is truthful.

    Worse is measured in two ways: more pairs stand the wrong way round, or the discounted gain of the true grades
    falls. The law is about being stopped; what a strategy comes to in the end is the matter of its promise, for one
    that counts votes may put two candidates of the middle wrong that no question has compared. For the same reason
    `JOINS` are looked at between rounds only: orders that each hold half of a round's answers may agree on a pair
    that none of them has asked about.
    """
    pool = Pool(n, seed=seed)
    for oracle in truths(n, (seed,)):
        _stop_everywhere(strategy, pool, oracle, random.Random(seed))


def _stop_everywhere(strategy: Strategy, pool: Pool, oracle: Oracle, lots: random.Random) -> None:
    given = tuple(range(pool.n))
    wrong, gain = inversions(given, oracle.truth), _gain(given, oracle.truth)
    looked_at: Permutation | None = None
    half_answered: set[int] = set()
    execution = Execution(strategy.plan(pool), pool.n)
    still_open: list[tuple[Asked, int]] = []
    while True:
        still_open += [(asked, index) for asked in execution.take() for index in range(len(asked.questions))]
        if execution.result is not None:
            break
        # Most rounds have one question or two; of one that has thousands, some partial answers are enough.
        look = not half_answered or (not isinstance(strategy, JOINS) and (len(still_open) < 50 or lots.random() < 0.02))
        order = execution.so_far if look else given
        if order != looked_at:
            looked_at = order
            assert is_permutation(order, pool.n)
            assert inversions(order, oracle.truth) <= wrong
            assert _gain(order, oracle.truth) >= gain - 1e-9
        asked, index = still_open.pop(lots.randrange(len(still_open)))
        half_answered.add(asked.id)
        if execution.answer(asked.id, index, oracle.answer(asked.questions[index])):
            half_answered.remove(asked.id)


def stopping_keeps_the_order(strategy: Strategy, n: int) -> None:
    """Law 5, the other half: after `close` nothing is asked, and the order stays."""
    execution = Execution(strategy.plan(Pool(n)), n)
    for asked in execution.take():
        for index, question in enumerate(asked.questions):
            execution.answer(asked.id, index, as_shown(question))
    before = execution.so_far
    execution.close()
    assert execution.take() == []
    assert execution.so_far == before
    assert is_permutation(before, n)


def _gain(order: Permutation, truth: Permutation) -> float:
    """Return the discounted cumulative gain, each candidate's grade being how many it truly beats."""
    grade = {item: len(truth) - place for place, item in enumerate(truth)}
    return sum(grade[item] / log2(place + 2) for place, item in enumerate(order))


def all_laws(strategy: Strategy) -> None:
    """Check one strategy against every law, at sizes around windows and heaps."""
    seeded: tuple[Callable[[Strategy, int, int], None], ...] = (
        it_returns_a_permutation,
        lockstep_equals_alone,
        the_forecast_is_right,
        stopping_does_no_harm,
    )
    for n in (0, 1, 2, 3, 7, 21, 40):
        for law in seeded:
            law(strategy, n, n)
        it_keeps_its_promise(strategy, n)
        stopping_keeps_the_order(strategy, n)
