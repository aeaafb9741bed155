"""A pipeline, built from its configuration: one strategy, and a judge for every role that its questions carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from podium_server.accounting.ledger import Account, Ledger
from podium_server.accounting.usage import CostBasis, Usage
from podium_server.config import PipelineSection, StageSection
from podium_server.errors import FailedPrecondition, InvalidRequest, NotFound
from podium_server.judges.case import Candidate, Case
from podium_server.judges.judge import Judge, ScoreKind
from podium_server.ranking.driver import Seat, role_in
from podium_strategies import registry
from podium_strategies.cascade import Cascade, Stage
from podium_strategies.forecast import Forecast, forecast
from podium_strategies.plan import Question, Scale, Strategy
from podium_strategies.pool import Pool

RECALL = "recall"
"""The stage of recall in a ledger, so that no stage of a pipeline may have its name."""

_JUDGES_KEYS = (
    "model",
    "models",
    "prompt",
    "scoring",
    "on_unreadable",
    "reask_missing",
    "constrained",
    "max_output_tokens",
    "long_documents",
    "score",
)
"""The keys of a stage that say who answers, and how."""

_STAGES_KEYS = ("name", "keep", "weight", "of", "base", "on_failure")
"""Those that say what becomes of its order."""


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
    part: str = ""
    """The role within its stage, where the stage has several."""

    @property
    def stage(self) -> str:
        """Its stage's path."""
        return self.role.removesuffix(f".{self.part}") if self.part else self.role


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
        skippable = {stage.role: given.on_failure == "skip" for stage, given in self._sections}
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
                seats[voice.role] = Seat(voice.judge, account, skippable[voice.role.partition(".")[0]])
        return seats, ledger

    def skipped(self, ledger: Ledger) -> tuple[str, ...]:
        """Return the stages and voices that could have asked about their candidates, and asked nothing.

        What a cache answered was asked, and is none of them.
        """
        asked: dict[int, int] = {}
        first: dict[int, Voice] = {}
        for voice in self.voices:
            account = ledger.accounts[voice.role]
            if voice.judge is not None and account.candidates_in >= 2:
                # The roles of one stage have their voices, and one strategy.
                first.setdefault(id(voice.strategy), voice)
                asked[id(voice.strategy)] = asked.get(id(voice.strategy), 0) + account.questions
        return tuple(voice.stage for key, voice in first.items() if not asked[key])

    @property
    def _sections(self) -> zip[tuple[Stage, StageSection]]:
        return zip(self.stages, self.section.stages, strict=True)

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
                kinds = {voice.role: voice.judge.facts.score_kind for voice in self.voices if voice.judge}
                grader = f"{last.role}.{last.strategy.graded_by}"
                return kinds.get(grader, kinds.get(last.role, ScoreKind.NONE))
            case scale:
                return ScoreKind(scale.value)


@dataclass(frozen=True, slots=True)
class VoiceEstimate:
    """What one voice is expected to ask, and what that would use; `rounds` is the most that any truth tried led to."""

    account: Account
    questions: float
    rounds: int
    usage: Usage


@dataclass(frozen=True, slots=True)
class Estimate:
    """A quote.

    Args:
        forecast: in questions and rounds.
        voices: in parts.
        usage: the expectation; counts in it are rounded.
        usage_max: the most; None where the strategy states no bound.
        time_s: expected, from what this server has measured of the same stages; None where it has not.

    """

    forecast: Forecast
    voices: tuple[VoiceEstimate, ...]
    usage: Usage
    usage_max: Usage | None
    time_s: float | None = None

    @property
    def time_nano_usd(self) -> int:
        """What is expected to be paid for time of our own processors, which nobody can promise."""
        bases = (CostBasis.COMPUTE_TIME, CostBasis.MIXED)
        return sum(voice.usage.cost_nano_usd or 0 for voice in self.voices if voice.usage.cost_basis in bases)


def pool_of(case: Case) -> Pool:
    """Return what a plan may know of a case. Scores count where every candidate brings one."""
    scores = [candidate.prior_score for candidate in case.candidates]
    known = tuple(score for score in scores if score is not None)
    return Pool(n=len(scores), scores=known if scores and len(known) == len(scores) else None, seed=case.seed)


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
    asked: dict[str, dict[int, list[Question[Any]]]] = {role: {seed: [] for seed in seeds} for role in seats}
    depths: dict[str, set[int]] = {role: set() for role in seats}

    def see(seed: int, question: Question[Any], depth: int) -> None:
        role = role_in(asked, question.role)
        asked[role][seed].append(question)
        depths[role].add(depth)

    quote = forecast(pipeline.strategy, pool_of(case), seeds=seeds, see=see)
    voices = []
    total = Usage()
    most = Usage()
    for voice, account in zip(pipeline.voices, ledger, strict=True):
        runs = [run for run in asked.get(account.stage, {}).values() if run]
        questions = sum(map(len, runs)) / len(seeds)
        summed = Usage()
        for run in runs:
            # Each run by itself: a judge that reads a document once a request must not take three runs for one.
            summed = summed + seats[account.stage].judge.estimate(case, run)
        usage = _scaled(summed, 1 / len(seeds))
        voices.append(VoiceEstimate(account, questions, len(depths.get(account.stage, ())), usage))
        total = total + usage
        # Each voice at its own bound: a dear stage that adapts is not evened out by a cheap one that does not.
        bound = voice.strategy.ceiling(account.candidates_in)
        factor = max(1.0, bound / questions) if bound is not None and questions else 1.0
        most = most + _scaled(usage, factor)
    return Estimate(quote, tuple(voices), total, most if quote.questions_max is not None else None)


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
        if "weight" in stage.model_fields_set:
            raise InvalidRequest(f"{where}.stages[{place}].weight", "has a meaning for the voices of a fusion only")
        taken = {RECALL, *(built.role for built in stages)}
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
        _refuse_keys(section, _JUDGES_KEYS, where, f"is for its voices to say: {section.strategy} itself asks nobody")
        inner: list[Stage] = []
        for place, voice in enumerate(section.of):
            _refuse_keys(voice, ("on_failure",), f"{where}.of[{place}]", "is for the whole stage to say")
            inner.append(_stage(voice, path, {s.role for s in inner}, voices, judge_of, f"{where}.of[{place}]"))
        options["of"] = tuple(inner)
    if section.base is not None:
        base = section.base
        _refuse_keys(base, _STAGES_KEYS, f"{where}.base", f"has no meaning for what {section.strategy} wraps")
        options["base"] = _strategy(base.strategy, base.options, f"{where}.base")
        # The wrapped strategy's questions are asked in the wrapper's name: what is said about the judge may stand at
        # either, and counts most where it is nearest to the questions.
        said = {key: getattr(base, key) for key in _JUDGES_KEYS if key in base.model_fields_set}
        section = section.model_copy(update=said)
    strategy = _strategy(section.strategy, options, where)
    if not section.of:
        _seat_voices(section, strategy, path, voices, judge_of, where)
    try:
        return Stage(strategy, role, section.keep, section.weight)
    except ValueError as error:
        raise InvalidRequest(where, str(error)) from error


def _refuse_keys(section: StageSection, keys: Sequence[str], where: str, reason: str) -> None:
    """Refuse what would be read and then count for nothing."""
    for key in keys:
        if key in section.model_fields_set and getattr(section, key) not in (None, {}, ()):
            raise InvalidRequest(f"{where}.{key}", reason)


def _seat_voices(
    section: StageSection, strategy: Strategy, path: str, voices: list[Voice], judge_of: JudgeMaker, where: str
) -> None:
    asks = strategy.asks
    if not asks:
        _refuse_keys(section, _JUDGES_KEYS, where, f"is set, and {section.strategy} asks nobody")
        voices.append(Voice(path, section, strategy, None))
        return
    if section.model is None and not section.models:
        kinds = ", ".join(sorted(kind.__name__.lower() for kind in asks))
        raise InvalidRequest(f"{where}.model", f"is needed: {section.strategy} asks questions ({kinds})")
    if section.model is not None:
        voices.append(Voice(path, section, strategy, _judge(section, section.model, asks, judge_of, f"{where}.model")))
    for role, given in section.models.items():
        # What a role says about its judge counts before what its stage says.
        own = section.model_copy(update={key: getattr(given, key) for key in given.model_fields_set - {"model"}})
        judge = _judge(own, given.model, asks, judge_of, f"{where}.models.{role}")
        voices.append(Voice(f"{path}.{role}", own, strategy, judge, role))


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
