"""The language in which a ranking strategy speaks: rounds of independent questions, branches, and waiting.

A strategy is a generator. It yields steps and receives answers, and it never sees a text, a clock, a socket, a token
or a price. Three kinds of step exist, and three functions to yield them:

| step    | yielded by             | the plan goes on                                  | and receives            |
|---------|------------------------|---------------------------------------------------|-------------------------|
| `Round` | `ask`, `ask_all`       | when all of its questions are answered            | the answer(s), in order |
| `Fork`  | `together`             | when all of its branches have returned            | what they returned      |
| `Until` | `until`                | when the condition holds                          | nothing                 |

A condition is looked at again whenever a sibling, or a branch of one, has moved.

Rounds are latency, questions are price: the length of the longest chain of rounds is what a caller waits for, and the
number of questions is what a caller pays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

from podium_strategies.pool import Pool

AnswerT = TypeVar("AnswerT")
ResultT = TypeVar("ResultT")

Permutation: TypeAlias = tuple[int, ...]
"""Items of a pool, best first: each of `range(n)` once."""


class PlanError(Exception):
    """A strategy broke the laws of plans: it returned no permutation, or waits for what nobody will do.

    It is a defect of the strategy, never of the input.
    """


class StageFailed(Exception):
    """Thrown into a plan at a step that nobody will answer, for plans that can go on without what they asked for.

    Args:
        order: the whole order that stands then.

    """

    def __init__(self, order: Permutation) -> None:
        super().__init__("a stage cannot be answered")
        self.order = order


class PlanTooLarge(ValueError):
    """The plan would ask more questions than its own limit allows. The message names both numbers and the option."""


# --- questions --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Question(Generic[AnswerT]):
    """One question to one judge. Its type is its answer's type.

    `role` says which judge of the panel shall answer (`"fast"`, `"strong"`, a stage's name); empty is the only one.
    """

    @property
    def role(self) -> str:
        """Who shall answer."""
        raise NotImplementedError

    @property
    def items(self) -> tuple[int, ...]:
        """The items that a judge has to read to answer."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Grade(Question[float]):
    """How relevant is `item`? Answer: a score, higher is better; comparable only to scores of the same judge."""

    item: int
    role: str = ""

    @property
    def items(self) -> tuple[int, ...]:
        return (self.item,)


@dataclass(frozen=True, slots=True)
class Prefer(Question[float]):
    """Shown `a` first and `b` second, which is better? Answer: the probability that `a` beats `b`."""

    a: int
    b: int
    role: str = ""

    @property
    def items(self) -> tuple[int, ...]:
        return (self.a, self.b)


@dataclass(frozen=True, slots=True)
class Pick(Question[int]):
    """Which of `candidates`, shown in this order, is the best? Answer: that item."""

    candidates: tuple[int, ...]
    role: str = ""

    @property
    def items(self) -> tuple[int, ...]:
        return self.candidates


@dataclass(frozen=True, slots=True)
class Order(Question[Permutation]):
    """In which order do `candidates`, shown in this order, stand? Answer: a permutation of them, best first.

    Where `top` is set only the first `top` places matter, and a judge may leave the others as they were shown.
    """

    candidates: tuple[int, ...]
    top: int | None = None
    role: str = ""

    @property
    def items(self) -> tuple[int, ...]:
        return self.candidates


@dataclass(frozen=True, slots=True)
class Liken(Question[tuple[float, ...]]):
    """How alike is `item` to each of `others`? Answer: one similarity an other, in [-1, 1], in their order."""

    item: int
    others: tuple[int, ...]
    role: str = ""

    @property
    def items(self) -> tuple[int, ...]:
        return (self.item, *self.others)


# --- steps ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Round:
    """Questions that do not depend on each other, and the whole order that stands if nobody answers them.

    `salvage`, where a strategy has one, turns the answers that did come (by index of question) into a better order
    than `so_far` when the round is cut short.
    """

    questions: tuple[Question[Any], ...]
    so_far: Permutation
    salvage: Callable[[Mapping[int, Any]], Permutation] | None = None


@dataclass(frozen=True, slots=True)
class Fork:
    """Plans that advance side by side, each at its own pace.

    `join` makes one whole order out of the branches' orders so far. Without it the branches' orders are whole
    themselves (they work on shared state), and the latest one stands.
    """

    plans: tuple[Plan[Any], ...]
    join: Callable[[Sequence[Permutation]], Permutation] | None = None


@dataclass(frozen=True, slots=True)
class Until:
    """A branch waits until its siblings have brought `condition` about."""

    condition: Callable[[], bool]


Step: TypeAlias = Round | Fork | Until
Plan: TypeAlias = Generator[Step, Any, ResultT]


def ask(question: Question[AnswerT], so_far: Sequence[int]) -> Plan[AnswerT]:
    """Ask one question and return its answer."""
    answers: list[AnswerT] = yield Round((question,), tuple(so_far))
    return answers[0]


def ask_all(
    questions: Sequence[Question[AnswerT]],
    so_far: Sequence[int],
    salvage: Callable[[Mapping[int, AnswerT]], Permutation] | None = None,
) -> Plan[list[AnswerT]]:
    """Ask independent questions in one round and return their answers in the same order."""
    if not questions:
        return []
    answers: list[AnswerT] = yield Round(tuple(questions), tuple(so_far), salvage)
    return answers


def together(
    *plans: Plan[ResultT], join: Callable[[Sequence[Permutation]], Permutation] | None = None
) -> Plan[list[ResultT]]:
    """Let independent plans advance side by side and return what they return, in the same order."""
    if not plans:
        return []
    results: list[ResultT] = yield Fork(plans, join)
    return results


def until(condition: Callable[[], bool]) -> Plan[None]:
    """Wait for a sibling branch's work on shared state. Costs no question and no round of its own.

    A condition that has come to hold must hold until this branch has moved: nobody looks a second time.
    """
    if not condition():
        yield Until(condition)


def leave(order: Sequence[int]) -> Plan[None]:
    """Say which whole order stands now, and ask nothing: a branch that ends says so what it came to."""
    yield Round((), tuple(order))


# --- strategies -------------------------------------------------------------------------------------------------


class Scale(Enum):
    """What the scores of a ranking are, for those who read them."""

    JUDGE = "judge"
    """The judge's own grades."""
    PRIOR = "prior"
    """What the candidates brought along."""
    FUSED = "fused"
    """A combination of several rankings."""
    POINTS = "points"
    """From wins and promotions."""
    MARGINAL = "marginal"
    """Relevance less likeness to what stands above."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """What a strategy returns.

    Args:
        order: a permutation of the pool.
        scores: by item, not by rank; None for an item that got none, and as a whole where the strategy has none.

    """

    order: Permutation
    scores: tuple[float | None, ...] | None = None


class Strategy(ABC):
    """A way to order a pool by asking questions. Implementations are frozen dataclasses whose fields are its options.

    An instance that exists is valid: `__post_init__` refuses what cannot work, with the numbers in the message.
    """

    __slots__ = ()

    kinds: ClassVar[tuple[type[Question[Any]], ...]] = ()
    """The kinds of question that the class asks by itself."""

    @abstractmethod
    def plan(self, pool: Pool) -> Plan[Ranking]:
        """Return a fresh plan over `pool`."""

    @property
    def asks(self) -> frozenset[type[Question[Any]]]:
        """The kinds of question that a plan may ask, so that a judge who cannot answer is refused beforehand.

        Strategies that are made of others answer for these.
        """
        return frozenset(self.kinds)

    @property
    def scale(self) -> Scale | None:
        """What the scores of the returned ranking are; None where it carries none."""
        return None

    @property
    def graded_by(self) -> str:
        """The role whose grades the scores are, where their scale is the judge's own; empty is the only one."""
        return ""

    def promised(self, n: int) -> int:
        """Return how many of the first ranks are the true ones, of `n`, where every judge is truthful."""
        return 0

    def ceiling(self, n: int) -> int | None:
        """Return the most questions that any answers can bring about; None where the number never varies."""
        return None


# --- plans inside plans -----------------------------------------------------------------------------------------


def within(plan: Plan[Ranking], items: Sequence[int], rest: Sequence[int] = (), role: str = "") -> Plan[Ranking]:
    """Run a plan that was made for `range(len(items))` over `items` of a larger pool.

    Args:
        plan: the inner plan; its item i is `items[i]` outside.
        items: what the inner plan ranks.
        rest: the items of the outer pool that stand behind them meanwhile, in their order.
        role: the name put before the role of every question.

    Returns:
        the inner ranking in outer items; its order holds `items` only, and its scores are by position in `items`,
        as the inner plan gave them.

    """
    outer = tuple(items)
    tail = tuple(rest)

    def lift(order: Sequence[int]) -> Permutation:
        return tuple(outer[i] for i in order) + tail

    ranking: Ranking
    if not tail and outer == tuple(range(len(outer))):
        # Nothing has another name outside: a plan of thousands of rounds must not copy thousands of names for each.
        ranking = yield from reworded(plan, lambda question: _outward(question, outer, role))
        yield from leave(ranking.order)
        return ranking
    inner = {item: i for i, item in enumerate(outer)}
    ranking = yield from _translate(plan, outer, inner, lift, role)
    yield from leave(lift(ranking.order))
    return Ranking(tuple(outer[i] for i in ranking.order), ranking.scores)


def reworded(plan: Plan[ResultT], reword: Callable[[Question[Any]], Question[Any]]) -> Plan[ResultT]:
    """Pass a plan's steps on with every question put as `reword` puts it, and the answers back as they come."""
    send: Any = None
    while True:
        try:
            step = plan.send(send)
        except StopIteration as stop:
            result: ResultT = stop.value
            return result
        match step:
            case Round(questions):
                send = yield replace(step, questions=tuple(reword(question) for question in questions))
            case Fork(plans):
                send = yield replace(step, plans=tuple(reworded(branch, reword) for branch in plans))
            case Until():
                send = yield step


def _translate(
    plan: Plan[ResultT],
    outer: tuple[int, ...],
    inner: Mapping[int, int],
    lift: Callable[[Sequence[int]], Permutation],
    role: str,
) -> Plan[ResultT]:
    """Pass a plan's steps on with its items renamed, and its answers back with their names undone."""
    send: Any = None
    while True:
        try:
            step = plan.send(send)
        except StopIteration as stop:
            result: ResultT = stop.value
            return result
        match step:
            case Round(questions, so_far, salvage):
                answers: list[Any] = yield Round(
                    tuple(_outward(question, outer, role) for question in questions),
                    lift(so_far),
                    None if salvage is None else _lifted_salvage(salvage, questions, inner, lift),
                )
                send = [_inward(question, answer, inner) for question, answer in zip(questions, answers, strict=True)]
            case Fork(plans, join):
                branches = tuple(_translate(branch, outer, inner, lift, role) for branch in plans)
                send = yield Fork(branches, None if join is None else _lifted_join(join, inner, lift))
            case Until():
                send = yield step


def _outward(question: Question[Any], outer: tuple[int, ...], role: str) -> Question[Any]:
    match question:
        case Grade(item, own):
            return Grade(outer[item], _role(role, own))
        case Prefer(a, b, own):
            return Prefer(outer[a], outer[b], _role(role, own))
        case Pick(candidates, own):
            return Pick(tuple(outer[i] for i in candidates), _role(role, own))
        case Order(candidates, _, own):
            return replace(question, candidates=tuple(outer[i] for i in candidates), role=_role(role, own))
        case Liken(item, others, own):
            return Liken(outer[item], tuple(outer[i] for i in others), _role(role, own))
    raise PlanError(f"a question of unknown kind: {type(question).__name__}")


def _inward(question: Question[Any], answer: Any, inner: Mapping[int, int]) -> Any:
    """Rename the items in an answer. Scores and probabilities name none."""
    match question:
        case Pick():
            return inner[answer]
        case Order():
            return tuple(inner[item] for item in answer)
        case _:
            return answer


def _lifted_salvage(
    salvage: Callable[[Mapping[int, Any]], Permutation],
    questions: tuple[Question[Any], ...],
    inner: Mapping[int, int],
    lift: Callable[[Sequence[int]], Permutation],
) -> Callable[[Mapping[int, Any]], Permutation]:
    return lambda answers: lift(salvage({i: _inward(questions[i], answer, inner) for i, answer in answers.items()}))


def _lifted_join(
    join: Callable[[Sequence[Permutation]], Permutation],
    inner: Mapping[int, int],
    lift: Callable[[Sequence[int]], Permutation],
) -> Callable[[Sequence[Permutation]], Permutation]:
    """Join the branches' orders in inner items: an outer order is an inner one with the rest behind it."""

    def lower(order: Permutation) -> Permutation:
        return tuple(inner[item] for item in order if item in inner)

    return lambda orders: lift(join([lower(order) for order in orders]))


def _role(prefix: str, own: str) -> str:
    return f"{prefix}.{own}" if prefix and own else prefix or own
