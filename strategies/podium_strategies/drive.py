"""Plans under way. `Execution` is the one machine that runs them; every driver, here and in a server, feeds it.

It does no I/O and waits for nothing: `take` says which rounds may be asked now, `answer` brings what was answered, in
any order, and `so_far` is a whole order at any moment between the two. (The idea is h11's: a protocol without a
socket.) A driver that answers a tick at a time runs in lockstep, and counts rounds; one that answers as replies come
lets every branch advance at its own pace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from podium_strategies.permutation import is_permutation
from podium_strategies.plan import Fork, Permutation, Plan, PlanError, Question, Ranking, Round, StageFailed, Until

Panel: TypeAlias = Callable[[Sequence[Question[Any]]], Sequence[Any]]
"""Answers independent questions, in their order. The synchronous judge of tests, oracles and forecasts."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A round that may be asked now. `depth` is its place in the longest chain of rounds that led to it, from 1."""

    id: int
    questions: tuple[Question[Any], ...]
    depth: int


@dataclass(slots=True, eq=False)
class _Branch:
    """One generator under way, and where it stands in the tree of forks."""

    plan: Plan[Any]
    parent: _Branch | None = None
    place: int = 0  # among the parent's children
    depth: int = 0  # rounds in the longest chain that led here
    path: float = 0.0  # the same chain, in the unit of the answers' cost
    step: Round | Until | Fork | None = None
    so_far: Permutation | None = None
    answers: dict[int, Any] = field(default_factory=dict)
    round_cost: float = 0.0
    children: list[_Branch] = field(default_factory=list)
    waiting: list[_Branch] = field(default_factory=list)  # the children that stand at an `Until`
    results: dict[int, Any] = field(default_factory=dict)
    latest: _Branch | None = None  # the child that moved last

    def order(self) -> Permutation | None:
        """Return the whole order that stands now in this branch."""
        match self.step:
            case Round(_, _, salvage) if salvage is not None and self.answers:
                return salvage(self.answers)
            case Fork(_, join) if join is not None:
                orders = [child.order() or self.so_far for child in self.children]
                return join([order for order in orders if order is not None]) if all(orders) else self.so_far
            case Fork() if self.latest is not None:
                return self.latest.order() or self.so_far
        return self.so_far


class Execution:
    """One plan over one pool of `n` items, under way.

    Raises:
        PlanError: from any method, when the strategy breaks the laws of plans.

    """

    def __init__(self, plan: Plan[Ranking], n: int) -> None:
        self.n = n
        self.depth = 0
        """Rounds in the longest chain asked so far."""
        self.critical_path = 0.0
        """The longest chain answered so far, in the unit of the answers' cost (seconds, for a server)."""
        self.asked = 0
        """Questions handed out so far."""
        self._ready: list[Asked] = []
        self._open: dict[int, _Branch] = {}
        self._next_id = 0
        self._result: Ranking | None = None
        self._last_order: Permutation = tuple(range(n))
        self._root = _Branch(plan)
        self._advance(self._root, None)

    @property
    def result(self) -> Ranking | None:
        """The strategy's ranking, once it is there."""
        return self._result

    @property
    def so_far(self) -> Permutation:
        """The best whole order known now: the result, or what the plan would leave if nothing more was answered."""
        if self._result is not None:
            return self._result.order
        order = self._root.order()
        if order is not None:
            self._last_order = self._checked(order)
        return self._last_order

    def take(self) -> list[Asked]:
        """Return the rounds that became ready since the last call, and forget them."""
        ready, self._ready = self._ready, []
        return ready

    def answer(self, round_id: int, index: int, answer: Any, *, cost: float = 0.0) -> bool:
        """Bring one answer.

        Args:
            round_id: of the round, as `take` gave it.
            index: of the question in that round.
            answer: of the question's answer type.
            cost: how long the answer took; the longest chain of these is the critical path.

        Returns:
            whether it was the last one of its round, so that the plan went on.

        """
        branch = self._open[round_id]
        step = branch.step
        if not isinstance(step, Round) or index in branch.answers:
            raise PlanError(f"question {index} of round {round_id} was answered twice")
        branch.answers[index] = answer
        branch.round_cost = max(branch.round_cost, cost)
        if len(branch.answers) < len(step.questions):
            return False
        del self._open[round_id]
        branch.path += branch.round_cost
        self.critical_path = max(self.critical_path, branch.path)
        self._advance(branch, [branch.answers[i] for i in range(len(step.questions))])
        return True

    def give_up(self) -> None:
        """Say that nobody will answer what is asked now: whatever is open is dropped, and the plan goes on without it.

        A cascade goes on with its next stage. Answers to what was asked before must not be brought any more.

        Raises:
            StageFailed: the plan cannot go on without.

        """
        failed = StageFailed(self.so_far)
        self._ready.clear()
        self._open.clear()
        for child in self._root.children:
            _close(child)
        self._advance(self._root, failed)

    def close(self) -> None:
        """Stop: no more rounds, and every generator is closed. `so_far` stays."""
        self._last_order = self.so_far
        self._ready.clear()
        self._open.clear()
        _close(self._root)
        self._root = _Branch(self._root.plan)

    def _advance(self, start: _Branch, value: Any) -> None:
        """Let `start` go on with `value`, and everyone whom that sets free."""
        moves: list[tuple[_Branch, Any]] = [(start, value)]
        while moves:
            branch, value = moves.pop()
            freed = self._step(branch, value)
            freed.extend(_released(branch))
            moves.extend(reversed(freed))
        if not self._open and self._result is None:
            raise PlanError("every branch of the plan waits for another one")

    def _step(self, branch: _Branch, value: Any) -> list[tuple[_Branch, Any]]:
        """Resume one generator up to its next step, and return who can move because of it."""
        branch.answers, branch.round_cost = {}, 0.0
        branch.children, branch.waiting, branch.results, branch.latest = [], [], {}, None
        try:
            step = branch.plan.throw(value) if isinstance(value, StageFailed) else branch.plan.send(value)
        except StopIteration as stop:
            return self._returned(branch, stop.value)
        branch.step = step
        match step:
            case Round(questions, so_far):
                branch.so_far = so_far
                if not questions:
                    return [(branch, [])]
                self._hand_out(branch, questions)
                return []
            case Fork(plans):
                if not plans:
                    return [(branch, [])]
                branch.children = [
                    _Branch(plan, branch, place, branch.depth, branch.path, so_far=branch.so_far)
                    for place, plan in enumerate(plans)
                ]
                return [(child, None) for child in branch.children]
            case Until(condition):
                if condition():
                    return [(branch, None)]
                if branch.parent is not None:
                    branch.parent.waiting.append(branch)
                return []
        raise PlanError(f"a plan yielded {type(step).__name__}, which is no step")

    def _hand_out(self, branch: _Branch, questions: tuple[Question[Any], ...]) -> None:
        branch.depth += 1
        self.depth = max(self.depth, branch.depth)
        self.asked += len(questions)
        self._ready.append(Asked(self._next_id, questions, branch.depth))
        self._open[self._next_id] = branch
        self._next_id += 1
        while branch.parent is not None:
            branch.parent.latest = branch
            branch = branch.parent

    def _returned(self, branch: _Branch, value: Any) -> list[tuple[_Branch, Any]]:
        """A generator has returned: hand its value to the fork that it belongs to, or end."""
        branch.step = None
        parent = branch.parent
        if parent is None:
            if not isinstance(value, Ranking):
                raise PlanError(f"a strategy returned {type(value).__name__} instead of a Ranking")
            self._checked(value.order)
            if value.scores is not None and len(value.scores) != self.n:
                raise PlanError(f"a strategy returned {len(value.scores)} scores for {self.n} items")
            self._result = value
            return []
        parent.results[branch.place] = value
        parent.depth = max(parent.depth, branch.depth)
        parent.path = max(parent.path, branch.path)
        if len(parent.results) < len(parent.children):
            return []
        parent.so_far = parent.order()
        return [(parent, [parent.results[place] for place in range(len(parent.children))])]

    def _checked(self, order: Permutation) -> Permutation:
        if not is_permutation(order, self.n):
            raise PlanError(f"not a permutation of {self.n} items: {order[:20]!r}")
        return order


def _released(mover: _Branch) -> list[tuple[_Branch, Any]]:
    """Return who waited for what `mover` has just done. What it cost to get there is theirs, too.

    Asked are its siblings and those of its ancestors: a tree of forks then looks at few, however many wait in all.
    """
    freed: list[_Branch] = []
    fork = mover.parent
    while fork is not None:
        free = [branch for branch in fork.waiting if isinstance(branch.step, Until) and branch.step.condition()]
        if free:
            fork.waiting = [branch for branch in fork.waiting if branch not in free]
            freed.extend(free)
        fork = fork.parent
    # A mover that has asked again since counts that next round already; its siblings are behind the one before.
    asked_again = isinstance(mover.step, Round) and bool(mover.step.questions)
    for branch in freed:
        branch.depth = max(branch.depth, mover.depth - asked_again)
        branch.path = max(branch.path, mover.path)
    return [(branch, None) for branch in freed]


def _close(branch: _Branch) -> None:
    for child in branch.children:
        _close(child)
    branch.plan.close()


def run(plan: Plan[Ranking], panel: Panel, n: int) -> Ranking:
    """Run one plan to its end, a tick at a time."""
    return run_many([(plan, n)], panel)[0]


def run_many(plans: Sequence[tuple[Plan[Ranking], int]], panel: Panel) -> list[Ranking]:
    """Run many plans side by side: whatever is ready in any of them goes to the panel as one batch.

    For panels that answer at once: tests, oracles, forecasts. A job over real models does the same by concurrency (many
    lists at work, each asking as soon as it can), and whoever runs the model merges what is asked at the same moment,
    so that a slow list holds none of the others up.

    Args:
        plans: (plan, n) pairs.
        panel: answers a batch of independent questions of all plans.

    """
    executions = [Execution(plan, n) for plan, n in plans]
    while batch := [(execution, asked) for execution in executions for asked in execution.take()]:
        questions = [question for _, asked in batch for question in asked.questions]
        answers = iter(panel(questions))
        for execution, asked in batch:
            for index in range(len(asked.questions)):
                execution.answer(asked.id, index, next(answers))
    results = []
    for execution in executions:
        if execution.result is None:
            raise PlanError("a plan neither ended nor asked")
        results.append(execution.result)
    return results
