"""Strategies that show many candidates at once and ask for their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from podium_strategies.permutation import ahead, by_score, risen, shuffled
from podium_strategies.plan import Order, Permutation, Plan, Ranking, Scale, Strategy, ask, ask_all
from podium_strategies.pool import Pool
from podium_strategies.walks import following, windows_from_tail


def _check_size(size: int) -> None:
    if size < 2:
        raise ValueError(f"size is {size}: a window holds at least 2 candidates")


@dataclass(frozen=True, slots=True)
class SlidingWindow(Strategy):
    """Carries the best candidates to the front, one window at a time, from the tail (RankGPT, arXiv 2304.09542).

    A following pass starts behind the one before as soon as its first window is settled, so that two passes over 100
    candidates are 18 questions and 11 rounds.

    Args:
        size: candidates in a window.
        stride: places between the starts of neighbouring windows.
        passes: how many times to walk over the whole list.

    """

    kinds = (Order,)

    size: int = 20
    stride: int = 10
    passes: int = 1

    def __post_init__(self) -> None:
        _check_size(self.size)
        if not 1 <= self.stride < self.size:
            raise ValueError(
                f"stride is {self.stride} and size is {self.size}: "
                "a stride from 1 to size - 1 lets neighbouring windows overlap, so that the best can move on"
            )
        if self.passes < 1:
            raise ValueError(f"passes is {self.passes}: at least 1")

    def promised(self, n: int) -> int:
        return n if n <= self.size else min(self.size, self.passes * (self.size - self.stride))

    def plan(self, pool: Pool) -> Plan[Ranking]:
        order = list(range(pool.n))
        windows = list(windows_from_tail(pool.n, self.size, self.stride))

        def visit(_: int, window: slice) -> Plan[None]:
            order[window] = yield from ask(Order(tuple(order[window])), order)

        yield from following([windows] * self.passes, visit)
        return Ranking(tuple(order))


@dataclass(frozen=True, slots=True)
class First(SlidingWindow):
    """The sliding window, where the judge answers from the probabilities of its first token (FIRST, arXiv 2406.15657).

    The walk and its questions are those of `SlidingWindow`. That the order of a window comes from one output token,
    the logits of the candidates' letters, is the business of the judge whom the server binds to this strategy.
    """


@dataclass(frozen=True, slots=True)
class TopDown(Strategy):
    """Sorts the head, and asks of all the others only whether they beat its `cutoff`-th (TDPart, arXiv 2405.14589).

    One question sorts the first window. Its `cutoff`-th candidate is the pivot that goes into every other window, all
    of them side by side. Who stands above it is sorted once more; where nobody new does, nothing is left to ask. At
    most 7 questions and 3 rounds for 100 candidates.

    Where more candidates beat the pivot than a window holds (the first stage was poor), the last window takes the
    first of every partition's answer, then the second of every one, and so on, so that the best is always in it; the
    others keep their places behind whom they are known to be worse than. Only where there are more partitions than
    the window has places, from 382 candidates on, is the part above the pivot partitioned again.

    Args:
        size: candidates in a window.
        cutoff: the pivot's place in the first window, from 1.
        partitions: how many times to partition at most; the last window then takes what it can hold.

    """

    kinds = (Order,)

    size: int = 20
    cutoff: int = 10
    partitions: int = 8

    def __post_init__(self) -> None:
        _check_size(self.size)
        if not 2 <= self.cutoff < self.size:
            raise ValueError(
                f"cutoff is {self.cutoff} and size is {self.size}: "
                "the pivot has somebody above and below it in the first window"
            )
        if self.partitions < 1:
            raise ValueError(f"partitions is {self.partitions}: at least 1")

    def promised(self, n: int) -> int:
        """Return what every answer's share of the last window guarantees, however poor the first stage was."""
        return n if n <= self.size else self.size // (1 + len(self._groups(range(n))))

    def ceiling(self, n: int) -> int:
        asked = 0
        for _ in range(self.partitions):
            groups = len(self._groups(range(n)))
            if groups == 0:
                break
            asked += 1 + groups
            n -= self.size - self.cutoff + 1  # at least the pivot and whoever stood below it in the first window
            if groups < self.size:
                break
        return asked + (1 if n >= 2 else 0)

    def plan(self, pool: Pool) -> Plan[Ranking]:
        order: Permutation = tuple(range(pool.n))
        contested: Sequence[int] = order
        chains: list[tuple[int, ...]] = []
        partitions = 0
        while len(contested) > self.size and partitions < self.partitions:
            order, chains = yield from self._partition(order, contested)
            contested = _leaders(chains)
            partitions += 1
            if len(chains) <= self.size:
                break
        if partitions and len(chains) < 2:
            return Ranking(order)  # nobody beat the pivot but those whose order is known already
        finalists = tuple(contested[: self.size])
        if len(finalists) >= 2:
            ruling = yield from ask(Order(finalists), order)
            order = _merged(order, chains or [finalists], ruling)
        return Ranking(order)

    def _groups(self, items: Sequence[int]) -> list[Sequence[int]]:
        """Return what is left of `items` behind the first window, in groups that leave room for the pivot."""
        return [items[i : i + self.size - 1] for i in range(self.size, len(items), self.size - 1)]

    def _partition(
        self, order: Permutation, contested: Sequence[int]
    ) -> Plan[tuple[Permutation, list[tuple[int, ...]]]]:
        """Split `contested` at a pivot; return the order that this leaves, and those above it as sorted chains."""
        head = tuple(contested[: self.size])
        ruling = yield from ask(Order(head), order)
        order = ahead(order, ruling, head)
        pivot = ruling[self.cutoff - 1]
        groups = self._groups(contested)

        def sorted_in(rulings: Mapping[int, Permutation]) -> Permutation:
            """Sort each group on the places that it and the pivot hold."""
            standing = order
            for items in rulings.values():
                standing = ahead(standing, items, items)
            return standing

        rulings = yield from ask_all([Order((pivot, *group)) for group in groups], order, sorted_in)
        chains = [ruling[: self.cutoff - 1], *(items[: items.index(pivot)] for items in rulings)]
        order = sorted_in(dict(enumerate(rulings)))
        above = {item for chain in chains for item in chain}
        below = [item for item in order if item in set(contested) - above - {pivot}]
        order = ahead(order, [*(item for item in order if item in above), pivot, *below], contested)
        return order, [chain for chain in chains if chain]


def _leaders(chains: Sequence[Sequence[int]]) -> list[int]:
    """Return the first of every chain, then the second of every one, and so on."""
    longest = max((len(chain) for chain in chains), default=0)
    return [chain[place] for place in range(longest) for chain in chains if place < len(chain)]


def _merged(order: Permutation, chains: Sequence[Sequence[int]], ruling: Permutation) -> Permutation:
    """Let the finalists of `ruling` rise as far as is known to be right.

    A finalist beats whom it beat in the last window; and whoever stands in a chain behind a finalist that it beat.
    """
    rank = {item: place for place, item in enumerate(ruling)}
    reached = {}
    for chain in chains:
        worst = max((rank[item] for item in chain if item in rank), default=-1)
        reached.update({item: rank.get(item, worst) for item in chain})

    def beats(item: int, other: int) -> bool:
        if item not in rank or other not in reached:
            return False
        return rank[item] < reached[other] or (rank[item] == reached[other] and other not in rank)

    return risen(order, beats)


@dataclass(frozen=True, slots=True)
class JointRank(Strategy):
    """Sorts overlapping blocks side by side and joins them, in one round (JointRank, arXiv 2506.22262).

    Every candidate is in `replicas` blocks, and those who share a block are spread as evenly as can be over the next
    ones. "a stands before b in a block" is a comparison; PageRank from losers to winners, or the share of comparisons
    won, makes one order of them. Two candidates whom nothing connects cannot be told apart this way, so no rank is
    promised beyond one block.

    Args:
        size: candidates in a block, at most.
        replicas: in how many blocks each candidate stands, the paper's r.
        aggregate: `pagerank`, as the authors use, or `winrate`.

    """

    kinds = (Order,)

    size: int = 20
    replicas: int = 2
    aggregate: str = "pagerank"

    def __post_init__(self) -> None:
        _check_size(self.size)
        if self.replicas < 1:
            raise ValueError(f"replicas is {self.replicas}: at least 1")
        if self.aggregate not in ("pagerank", "winrate"):
            raise ValueError(f"aggregate is {self.aggregate!r}: pagerank or winrate")

    @property
    def scale(self) -> Scale | None:
        return Scale.POINTS

    def promised(self, n: int) -> int:
        return n if n <= self.size else 0

    def plan(self, pool: Pool) -> Plan[Ranking]:
        start: Permutation = tuple(range(pool.n))

        def salvage(rulings: Mapping[int, Permutation]) -> Permutation:
            order = start
            for ruling in rulings.values():
                order = ahead(order, ruling, ruling)
            return order

        blocks = self._blocks(pool) if pool.n >= 2 else []
        rulings = yield from ask_all([Order(block) for block in blocks], start, salvage)
        scores = (pagerank if self.aggregate == "pagerank" else winrate)(rulings, pool.n)
        order = rulings[0] if len(rulings) == 1 else by_score(scores)
        return Ranking(order, tuple(scores))

    def _blocks(self, pool: Pool) -> list[tuple[int, ...]]:
        number = -(-pool.n // self.size)
        replica: list[tuple[int, ...]] = [tuple(range(pool.n))]
        blocks: list[tuple[int, ...]] = []
        for salt in range(self.replicas if number > 1 else 1):
            dealt = [item for block in replica for item in shuffled(block, pool.seed, salt)]
            replica = [tuple(dealt[place::number]) for place in range(number)]
            blocks += replica
        return blocks


def winrate(rulings: Sequence[Sequence[int]], n: int) -> list[float]:
    """Return the share of its comparisons that each item won; 0 for one that was in none."""
    won, played = [0] * n, [0] * n
    for ruling in rulings:
        for place, item in enumerate(ruling):
            won[item] += len(ruling) - 1 - place
            played[item] += len(ruling) - 1
    return [wins / max(games, 1) for wins, games in zip(won, played, strict=True)]


def pagerank(rulings: Sequence[Sequence[int]], n: int, damping: float = 0.85, steps: int = 100) -> list[float]:
    """Return the PageRank of each item, where everybody in a ruling links to all who stand before it there."""
    links = [0] * n
    for ruling in rulings:
        for place, item in enumerate(ruling):
            links[item] += place
    rank = [1.0 / n] * n if n else []
    for _ in range(steps):
        unbeaten = sum(value for value, number in zip(rank, links, strict=True) if number == 0)
        ranked = [(1.0 - damping + damping * unbeaten) / max(n, 1)] * n
        for ruling in rulings:
            from_behind = 0.0
            for item in reversed(ruling):
                ranked[item] += damping * from_behind
                from_behind += rank[item] / links[item] if links[item] else 0.0
        change = sum(abs(new - old) for new, old in zip(ranked, rank, strict=True))
        rank = ranked
        if change < 1e-12:
            break
    return rank
