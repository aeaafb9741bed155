"""Strategies that ask which of two candidates is better (pairwise ranking prompting, arXiv 2306.17563).

A pair is shown in both orders, because judges prefer a place as well as a candidate: whoever wins both wins, and
anything else is a tie. Two questions are two questions on the bill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil, log2

from podium_strategies.heap import Champion, Heap, most_steps
from podium_strategies.permutation import by_score, exchanged, front
from podium_strategies.plan import (
    Permutation,
    Plan,
    PlanTooLarge,
    Prefer,
    Ranking,
    Scale,
    Strategy,
    ask_all,
)
from podium_strategies.pool import Pool
from podium_strategies.walks import climb, following


def verdict(shown: Sequence[float]) -> float:
    """Return 1.0 where a wins, 0.0 where b wins, and 0.5 for a tie.

    Args:
        shown: the probability that a beats b with a shown first; behind it, where the pair was shown in both orders,
            the probability that b beats a with b shown first. The two must agree.

    """
    for_a = [shown[0], *(1.0 - probability for probability in shown[1:])]
    if all(probability > 0.5 for probability in for_a):
        return 1.0
    if all(probability < 0.5 for probability in for_a):
        return 0.0
    return 0.5


def games(pairs: Sequence[tuple[int, int]], order: Sequence[int], both_orders: bool) -> Plan[list[float]]:
    """Ask about pairs side by side and return their verdicts. Cut short, the winners known move up in `order`."""
    showings = 2 if both_orders else 1
    questions = [Prefer(*pair) for a, b in pairs for pair in ((a, b), (b, a))[:showings]]

    def salvage(answers: Mapping[int, float]) -> Permutation:
        known = [range(i * showings, (i + 1) * showings) for i in range(len(pairs))]
        decided = {i: verdict([answers[j] for j in js]) for i, js in enumerate(known) if all(j in answers for j in js)}
        return exchanged(order, winners([pairs[i] for i in decided], list(decided.values())))

    answers = yield from ask_all(questions, order, salvage)
    return [verdict(answers[i : i + showings]) for i in range(0, len(answers), showings)]


def winners(pairs: Sequence[tuple[int, int]], verdicts: Sequence[float]) -> list[tuple[int, int]]:
    """Return (winner, loser) of every pair that is no tie."""
    decided = [(a, b, result) for (a, b), result in zip(pairs, verdicts, strict=True) if result != 0.5]
    return [(a, b) if result == 1.0 else (b, a) for a, b, result in decided]


def champion(both_orders: bool, *, seeded: bool) -> Champion:
    """Return a way to find the best of some items by comparing one after another with the best so far.

    Args:
        both_orders: show every pair in both orders.
        seeded: a tie goes to whom the first stage put first; otherwise to the best so far.

    """

    def find(items: tuple[int, ...], order: Permutation) -> Plan[int]:
        best = items[0]
        for challenger in items[1:]:
            [result] = yield from games([(challenger, best)], order, both_orders)
            if result == 1.0 or (result == 0.5 and seeded and challenger < best):
                best = challenger
        return best

    return find


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k is {k}: at least 1")


@dataclass(frozen=True, slots=True)
class RoundRobin(Strategy):
    """Compares all with all in one round and sorts by points: 1 a win, 0.5 a tie (PRP-Allpair, arXiv 2306.17563).

    Args:
        both_orders: show every pair in both orders: n(n - 1) questions instead of half as many.
        questions_max: more than this is refused with `PlanTooLarge` before anything is built.

    """

    kinds = (Prefer,)

    both_orders: bool = True
    questions_max: int = 250_000

    def __post_init__(self) -> None:
        if self.questions_max < 1:
            raise ValueError(f"questions_max is {self.questions_max}: at least 1")

    @property
    def scale(self) -> Scale | None:
        return Scale.POINTS

    def promised(self, n: int) -> int:
        return n

    def plan(self, pool: Pool) -> Plan[Ranking]:
        questions = pool.n * (pool.n - 1) // (1 if self.both_orders else 2)
        if questions > self.questions_max:
            raise PlanTooLarge(
                f"a round robin of {pool.n} candidates asks {questions} questions; questions_max is "
                f"{self.questions_max}"
            )
        pairs = list(combinations(range(pool.n), 2))
        verdicts = yield from games(pairs, range(pool.n), self.both_orders)
        points = [0.0] * pool.n
        for (a, b), result in zip(pairs, verdicts, strict=True):
            points[a] += result
            points[b] += 1.0 - result
        return Ranking(by_score(points), tuple(points))


@dataclass(frozen=True, slots=True)
class PairwiseHeapsort(Strategy):
    """Takes the best k out of a binary heap (PRP-Sorting, arXiv 2306.17563; arXiv 2310.09497).

    The others follow in first-stage order, not in heap order. A tie goes to whom the first stage put first, for a
    leaf that was put at the root has not earned that place: a judge who cannot tell leaves the order as it was.

    Args:
        k: how many to sort out.
        both_orders: show every pair in both orders, side by side.

    """

    kinds = (Prefer,)

    k: int = 10
    both_orders: bool = True

    def __post_init__(self) -> None:
        _check_k(self.k)

    def promised(self, n: int) -> int:
        return min(self.k, n)

    def ceiling(self, n: int) -> int:
        comparisons = 2 * most_steps(n, 2, self.k)
        return comparisons * (2 if self.both_orders else 1)

    def plan(self, pool: Pool) -> Plan[Ranking]:
        order = yield from Heap(pool.n, 2, self.k, champion(self.both_orders, seeded=True)).plan()
        return Ranking(order)


@dataclass(frozen=True, slots=True)
class PairwiseBubble(Strategy):
    """Walks k times from the tail to the head and lets the better of each two neighbours go first.

    That is PRP-Sliding-K (arXiv 2306.17563): k(n - 1) comparisons, whatever is answered. A following pass runs two
    comparisons behind the one before. A tie leaves both where they stand.

    Args:
        k: how many passes; pass i brings the i-th best to its place.
        both_orders: show every pair in both orders, side by side.

    """

    kinds = (Prefer,)

    k: int = 10
    both_orders: bool = True

    def __post_init__(self) -> None:
        _check_k(self.k)

    def promised(self, n: int) -> int:
        return n if self.k >= n - 1 else self.k

    def plan(self, pool: Pool) -> Plan[Ranking]:
        order = list(range(pool.n))
        find = champion(self.both_orders, seeded=False)

        def visit(_: int, pair: slice) -> Plan[None]:
            first, second = order[pair]
            best = yield from find((first, second), tuple(order))
            order[pair] = front([best], (first, second))

        yield from following([list(climb(pool.n, 2, 0))] * self.k, visit)
        return Ranking(tuple(order))


@dataclass(frozen=True, slots=True)
class Knockout(Strategy):
    """Lets pairs play until one is left, then plays for the next place among those who lost to nobody else.

    Tournament selection (Knuth, The Art of Computer Programming 3, 5.2.3) with a judge for the games: n - 1
    comparisons for the best, about log2(n) more for each further place. Who came first in first-stage order meets who
    came last, as seeded players do; a tie goes to the better seed.

    Args:
        k: how many places to play for. The others keep the places that their games left them.
        both_orders: show every pair in both orders, side by side.

    """

    kinds = (Prefer,)

    k: int = 10
    both_orders: bool = True

    def __post_init__(self) -> None:
        _check_k(self.k)

    def promised(self, n: int) -> int:
        return min(self.k, n)

    def ceiling(self, n: int) -> int:
        """Count games: a champion has beaten one player in every round that it played, and these play next."""
        played, beaten, players = 0, 0, n
        for place in range(min(self.k, n)):
            played += max(players - 1, 0)
            beaten += ceil(log2(players)) if players > 1 else 0
            players = min(beaten, n - place - 1)
        return played * (2 if self.both_orders else 1)

    def plan(self, pool: Pool) -> Plan[Ranking]:
        order: Permutation = tuple(range(pool.n))
        beaten: dict[int, list[int]] = {player: [] for player in order}
        chosen: list[int] = []
        players = list(order)
        while players and len(chosen) < self.k:
            while len(players) > 1:
                half = len(players) // 2
                pairs = [(players[i], players[-1 - i]) for i in range(half)]
                verdicts = yield from games(pairs, order, self.both_orders)
                # A tie goes to the first of the pair, the better seed.
                results = [(b, a) if result == 0.0 else (a, b) for (a, b), result in zip(pairs, verdicts, strict=True)]
                order = exchanged(order, results)
                for winner, loser in results:
                    beaten[winner].append(loser)
                out = {loser for _, loser in results}
                players = [player for player in players if player not in out]
            chosen.append(players[0])
            order = front(chosen, order)
            players = sorted(beaten[players[0]])
        return Ranking(order)


@dataclass(frozen=True, slots=True)
class Swiss(Strategy):
    """Plays rounds in which those meet who have the same points and have not met before (the Swiss system).

    n/2 comparisons a round. A tie is half a point; who finds no partner has a point for nothing. Equal points are
    told apart by the sum of the opponents' points (Buchholz), then by first-stage order. PRP-Graph (ACL 2024) builds
    its graph of comparisons in such rounds.

    Args:
        rounds: how many; None for as many as halve the field to one unbeaten candidate, log2(n).
        both_orders: show every pair in both orders, side by side.

    """

    kinds = (Prefer,)

    rounds: int | None = None
    both_orders: bool = True

    def __post_init__(self) -> None:
        if self.rounds is not None and self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds}: at least 1")

    @property
    def scale(self) -> Scale | None:
        return Scale.POINTS

    def promised(self, n: int) -> int:
        return min(n, 1) if self._rounds(n) >= _halvings(n) else 0

    def ceiling(self, n: int) -> int:
        return self._rounds(n) * (n // 2) * (2 if self.both_orders else 1)

    def plan(self, pool: Pool) -> Plan[Ranking]:
        order: Permutation = tuple(range(pool.n))
        points = [0.0] * pool.n
        met: list[set[int]] = [set() for _ in range(pool.n)]
        for _ in range(self._rounds(pool.n)):
            pairs, idle = _pairing(points, met)
            verdicts = yield from games(pairs, order, self.both_orders)
            order = exchanged(order, winners(pairs, verdicts))
            for player in idle:
                points[player] += 1.0
            for (a, b), result in zip(pairs, verdicts, strict=True):
                met[a].add(b)
                met[b].add(a)
                points[a] += result
                points[b] += 1.0 - result
        buchholz = [sum(points[other] for other in others) for others in met]
        final = sorted(range(pool.n), key=lambda player: (-points[player], -buchholz[player]))
        return Ranking(tuple(final), tuple(points))

    def _rounds(self, n: int) -> int:
        return _halvings(n) if self.rounds is None else min(self.rounds, max(n - 1, 0))


def _halvings(n: int) -> int:
    return ceil(log2(n)) if n > 1 else 0


def _pairing(points: Sequence[float], met: Sequence[set[int]]) -> tuple[list[tuple[int, int]], list[int]]:
    """Pair each player, from the top, within its points: the first with the middle one, so that equals meet late.

    Who has met all of these meets the next below. Who finds nobody is returned beside the pairs.
    """
    pairs: list[tuple[int, int]] = []
    idle: list[int] = []
    left = list(by_score(points))
    while left:
        player = left.pop(0)
        equals = sum(points[other] == points[player] for other in left)
        middle = equals // 2
        preferred = (*left[middle:equals], *reversed(left[:middle]), *left[equals:])
        partner = next((other for other in preferred if other not in met[player]), None)
        if partner is None:
            idle.append(player)
        else:
            left.remove(partner)
            pairs.append((player, partner))
    return pairs, idle
