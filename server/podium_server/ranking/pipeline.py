"""A pipeline, built from its configuration: one strategy, and a judge for every role that its questions carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from podium_server.accounting.ledger import Account, Ledger
from podium_server.accounting.usage import CostBasis, Usage
from podium_server.config import PipelineSection, StageSection
from podium_server.errors import FailedPrecondition, InvalidRequest, NotFound
from podium_server.judges.case import Candidate, Case
from podium_server.judges.judge import Judge, ScoreKind
from podium_server.ranking.driver import Seat
from podium_strategies import registry
from podium_strategies.cascade import Cascade, Stage
from podium_strategies.forecast import Forecast, forecast
from podium_strategies.plan import Question, Scale, Strategy
from podium_strategies.pool import Pool


class JudgeMaker(Protocol):
    """Whoever knows the models: gives the judge that a stage asks for."""

    def __call__(self, section: StageSection, model: str, asks: frozenset[type[Question[Any]]]) -> Judge:
        """Return the judge of `model` for the questions of a stage.

        Raises:
            NotFound: no model or prompt of that name.
            FailedPrecondition: the model cannot answer such questions.

        """


@dataclass(frozen=True, slots=True)
class Voice:
    """One strategy of a pipeline that asks a model, or none: what the ledger and the catalogue tell of it."""

    role: str
    section: StageSection
    strategy: Strategy
    judge: Judge | None


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline that is ready to be used.

    Args:
        name: as configured; empty for an inline one.
        section: of the configuration.
        stages: the top-level stages, each with its voices in `voices`.
        voices: every strategy that asks, in the order in which they stand.

    """

    name: str
    section: PipelineSection
    stages: tuple[Stage, ...]
    voices: tuple[Voice, ...]

    @property
    def strategy(self) -> Cascade:
        """All stages as one strategy."""
        return Cascade(self.stages)

    def seats(self, n: int) -> tuple[dict[str, Seat], Ledger]:
        """Return the judges by role, each with an account in a fresh ledger for a pool of `n` candidates."""
        ledger = Ledger()
        seats: dict[str, Seat] = {}
        flow = self._flow(n)
        for voice in self.voices:
            candidates_in, candidates_out = flow[voice.role.partition(".")[0]]
            facts = voice.judge.facts if voice.judge is not None else None
            account = ledger.open(
                Account(
                    stage=voice.role,
                    strategy=voice.section.strategy,
                    model=facts.model if facts else "",
                    revision=facts.revision if facts else "",
                    prompt_id=facts.prompt_id if facts else "",
                    price_table_version=facts.prices.version if facts else "",
                    candidates_in=candidates_in,
                    candidates_out=candidates_out,
                )
            )
            if voice.judge is not None:
                seats[voice.role] = Seat(voice.judge, account)
        return seats, ledger

    def _flow(self, n: int) -> dict[str, tuple[int, int]]:
        """Return how many candidates enter and leave each stage."""
        flow = {}
        for stage in self.stages:
            out = n if stage.keep is None else min(n, stage.keep)
            flow[stage.role] = (n, out)
            n = out
        return flow

    @property
    def score_kind(self) -> ScoreKind:
        """What the scores of the final order are."""
        last = self.stages[-1]
        match last.strategy.scale:
            case None:
                return ScoreKind.NONE
            case Scale.JUDGE:
                kinds = {v.judge.facts.score_kind for v in self.voices if v.judge and v.role == last.role}
                return kinds.pop() if len(kinds) == 1 else ScoreKind.NONE
            case scale:
                return ScoreKind(scale.value)


@dataclass(frozen=True, slots=True)
class VoiceEstimate:
    """What one voice is expected to ask, and what that would use."""

    account: Account
    questions: float
    usage: Usage


@dataclass(frozen=True, slots=True)
class Estimate:
    """A quote. `usage` is the expectation; counts in it are rounded."""

    forecast: Forecast
    voices: tuple[VoiceEstimate, ...]
    usage: Usage
    usage_max: Usage | None


def sketched_case(query: str, n: int, tokens_per_document: int) -> Case:
    """Return a case of `n` documents that nobody has, each of about that many tokens."""
    # A short common word is one token to any tokenizer, and with its blank one to an estimate by bytes.
    text = "of " * tokens_per_document
    return Case(query=query, candidates=tuple(Candidate(id=str(i), text=text) for i in range(n)))


def estimate(pipeline: Pipeline, case: Case) -> Estimate:
    """Let the plan ask truthful oracles, and weigh its questions with each judge's own estimate. Calls no model."""
    n = len(case.candidates)
    seats, ledger = pipeline.seats(n)
    seeds = (1, 2, 3)
    asked: dict[str, list[Question[Any]]] = {role: [] for role in seats}

    def see(question: Question[Any]) -> None:
        role = question.role
        while role not in asked and "." in role:
            role = role.rpartition(".")[0]
        asked[role].append(question)

    quote = forecast(pipeline.strategy, Pool(n), seeds=seeds, see=see)
    voices = []
    total = Usage()
    for account in ledger:
        questions = asked.get(account.stage, [])
        usage = Usage()
        if questions:
            usage = _scaled(seats[account.stage].judge.estimate(case, questions), 1 / len(seeds))
        voices.append(VoiceEstimate(account, len(questions) / len(seeds), usage))
        total = total + usage
    scale = None
    if quote.questions_max is not None and quote.questions > 0:
        scale = _scaled(total, quote.questions_max / quote.questions)
    elif quote.questions_max == 0:
        scale = total
    return Estimate(quote, tuple(voices), total, scale)


def _scaled(usage: Usage, factor: float) -> Usage:
    """Return amounts times `factor`, rounded; an unknown cost stays unknown."""
    cost = usage.cost_nano_usd
    return Usage(
        calls=round(usage.calls * factor),
        pairs=round(usage.pairs * factor),
        prompt_tokens=round(usage.prompt_tokens * factor),
        output_tokens=round(usage.output_tokens * factor),
        cost_nano_usd=None if cost is None else round(cost * factor),
        cost_basis=usage.cost_basis if cost is not None else CostBasis.UNKNOWN,
    )


def build(name: str, section: PipelineSection, judge_of: JudgeMaker, *, where: str) -> Pipeline:
    """Build a pipeline.

    Args:
        name: as configured; empty for an inline one.
        section: its configuration.
        judge_of: gives the judges.
        where: the path of the section, for messages.

    Raises:
        NotFound: a strategy, model or prompt that is not there.
        InvalidRequest: an option that the strategy does not have, with the path of its key.
        FailedPrecondition: a model that cannot answer what the strategy asks.

    """
    voices: list[Voice] = []
    stages: list[Stage] = []
    for place, stage in enumerate(section.stages):
        taken = {built.role for built in stages}
        stages.append(_stage(stage, "", taken, voices, judge_of, f"{where}.stages[{place}]"))
    return Pipeline(name, section, tuple(stages), tuple(voices))


def _stage(
    section: StageSection, prefix: str, taken: set[str], voices: list[Voice], judge_of: JudgeMaker, where: str
) -> Stage:
    """Build one stage or voice, and add every strategy in it that asks a model to `voices`."""
    role = _unique(section.name or section.scoring or section.strategy, taken)
    path = f"{prefix}.{role}" if prefix else role
    options = section.options
    if section.of:
        inner: list[Stage] = []
        for place, voice in enumerate(section.of):
            inner.append(_stage(voice, path, {s.role for s in inner}, voices, judge_of, f"{where}.of[{place}]"))
        options["of"] = tuple(inner)
    if section.base is not None:
        # The wrapped strategy asks in the wrapper's name, unless it has a model of its own.
        base = section.base if section.base.model else section.base.model_copy(update={"model": section.model})
        options["base"] = _strategy(base.strategy, base.options, f"{where}.base")
        section = section.model_copy(update={"model": base.model, "prompt": section.prompt or base.prompt})
    strategy = _strategy(section.strategy, options, where)
    if not section.of:
        _seat_voices(section, strategy, path, voices, judge_of, where)
    try:
        return Stage(strategy, role, section.keep, section.weight)
    except ValueError as error:
        raise InvalidRequest(where, str(error)) from error


def _seat_voices(
    section: StageSection, strategy: Strategy, path: str, voices: list[Voice], judge_of: JudgeMaker, where: str
) -> None:
    asks = strategy.asks
    if not asks and section.model is None:
        voices.append(Voice(path, section, strategy, None))
        return
    if section.model is None and not section.models:
        kinds = ", ".join(sorted(kind.__name__.lower() for kind in asks))
        raise InvalidRequest(f"{where}.model", f"is needed: {section.strategy} asks questions ({kinds})")
    if section.model is not None:
        voices.append(Voice(path, section, strategy, _judge(section, section.model, asks, judge_of, f"{where}.model")))
    for role, model in section.models.items():
        judge = _judge(section, model, asks, judge_of, f"{where}.models.{role}")
        voices.append(Voice(f"{path}.{role}", section, strategy, judge))


def _judge(
    section: StageSection, model: str, asks: frozenset[type[Question[Any]]], judge_of: JudgeMaker, where: str
) -> Judge:
    judge = judge_of(section, model, asks)
    missing = asks - judge.facts.answers
    if missing:
        wanted = ", ".join(sorted(kind.__name__.lower() for kind in missing))
        able = ", ".join(sorted(kind.__name__.lower() for kind in judge.facts.answers)) or "nothing"
        raise FailedPrecondition(
            f"{where}: {section.strategy} asks {wanted}, and {model!r} as it is used here answers {able}"
        )
    return judge


def _strategy(name: str, options: Mapping[str, Any], where: str) -> Strategy:
    try:
        return registry.build(name, options)
    except registry.UnknownStrategy as error:
        raise NotFound("strategy", error.name, error.known) from error
    except registry.InvalidOption as error:
        raise InvalidRequest(where, str(error)) from error


def _unique(name: str, taken: set[str]) -> str:
    """Return a name that is not taken yet: `pointwise`, `pointwise-2`, …; dots separate the parts of a role."""
    base = name.replace(".", "-")
    number = 1
    unique = base
    while unique in taken:
        number += 1
        unique = f"{base}-{number}"
    return unique
