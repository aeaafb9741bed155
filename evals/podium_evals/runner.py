"""Runs pipelines over a suite, through the same rankers that jobs use: in this process, or on servers."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from podium_evals.results import FAILED, PIPELINE, Ranking, Spent, System
from podium_evals.suite import Suite, Topic
from podium_server.accounting.ledger import Ledger
from podium_server.config import Config, StageSection
from podium_server.errors import NotFound
from podium_server.jobs.lists import CandidateList
from podium_server.jobs.ranking import Answer, Failed, Ranker, local_ranker
from podium_server.ranking.request import Budget
from podium_strategies.prompts.prompt import MALFORMED, Repair

Tell = Callable[[int, int], None]
"""Is told how many queries are done, and of how many."""


def _silent(done: int, of: int) -> None:
    """Tell nobody."""


class Interrupted(Exception):
    """A run that was ended from outside. `rankings` has what was answered by then."""

    def __init__(self, rankings: tuple[Ranking, ...]) -> None:
        super().__init__("interrupted")
        self.rankings = rankings


@dataclass(frozen=True, slots=True)
class Here:
    """Pipelines of a configuration, in this process.

    Every pipeline gets models of its own, so that none finds what another has put into their caches.

    Args:
        config: whose pipelines and models they are.
        budget: of each query.
        data_dir: where chat models' verdicts are remembered; None asks anew.

    """

    config: Config
    budget: Budget = field(default_factory=Budget)
    data_dir: Path | None = None

    async def check(self, pipelines: Sequence[str]) -> None:
        """Refuse names that there are not.

        Raises:
            NotFound: no pipeline of that name, with the names that there are.

        """
        for name in pipelines:
            if name not in self.config.pipelines:
                raise NotFound("pipeline", name, tuple(self.config.pipelines))

    def told(self, name: str, suite: Suite) -> tuple[str, tuple[str, ...]]:
        """Return a pipeline's description, and each of its stages in a line."""
        section = self.config.pipelines[name]
        return section.description, tuple(_stage(stage) for stage in section.stages)

    @contextlib.asynccontextmanager
    async def ranker(self, name: str, concurrency: int, suite: Suite | None = None) -> AsyncIterator[Ranker]:
        """Load the pipeline's models, and hand out who ranks with them."""
        from podium_server.compose import Podium

        podium = Podium(narrowed(self.config, name, concurrency), data_dir=self.data_dir, collections=False)
        try:
            await podium.start()  # the first query must not pay alone for loading the models
            yield local_ranker(podium.reranker, name, self.budget, podium.limits)
        finally:
            await podium.aclose()


@dataclass(frozen=True, slots=True)
class There:
    """Pipelines of servers that run elsewhere; latencies are theirs, without the network.

    Args:
        targets: HOST:PORT of each.
        budget: of each query.

    """

    targets: tuple[str, ...]
    budget: Budget = field(default_factory=Budget)

    async def check(self, pipelines: Sequence[str]) -> None:
        """Ask for names that there are not.

        Raises:
            NotFound: a server has no pipeline of that name.
            Unavailable: no server answers.

        """
        for name in pipelines:
            async with self.ranker(name, 1):
                pass

    def told(self, name: str, suite: Suite) -> tuple[str, tuple[str, ...]]:
        """Return where the pipeline is."""
        return f"{name} on {', '.join(self.targets)}", ()

    @contextlib.asynccontextmanager
    async def ranker(self, name: str, concurrency: int, suite: Suite | None = None) -> AsyncIterator[Ranker]:
        """Connect, and hand out who asks."""
        from podium_server.cli.reaching.ranking_servers import ranking_servers

        async with ranking_servers(self.targets, name, self.budget, concurrency) as servers:
            yield servers


class Place(Protocol):
    """Where pipelines are: `Here`, `There`, or over an index (`podium_evals.indexed`)."""

    async def check(self, pipelines: Sequence[str]) -> None:
        """Refuse names that there are not.

        Raises:
            NotFound: no pipeline of that name.

        """

    def told(self, name: str, suite: Suite) -> tuple[str, tuple[str, ...]]:
        """Return a pipeline's description, and what it does there, a line each."""

    def ranker(self, name: str, concurrency: int, suite: Suite) -> AbstractAsyncContextManager[Ranker]:
        """Get ready, and hand out who ranks the suite's lists."""


async def run_pipeline(
    suite: Suite, place: Place, name: str, *, concurrency: int = 1, kind: str = PIPELINE, tell: Tell = _silent
) -> System:
    """Run a pipeline over all queries of a suite.

    Args:
        suite: with candidates.
        place: where the pipeline is.
        name: of the pipeline.
        concurrency: queries at work at the same time. Above 1, latencies are those of a busy machine.
        kind: of the system.
        tell: is told after every query.

    Raises:
        NotFound: no pipeline of that name.
        PodiumError: nobody can be asked: a model cannot be loaded, a server cannot be reached.
        Interrupted: the task was cancelled.

    """
    lists = [_list(number, topic) for number, topic in enumerate(suite.topics, start=1)]
    answers: dict[int, Answer] = {}
    places = asyncio.Semaphore(concurrency)

    async def rank(given: CandidateList) -> None:
        async with places:
            answers[given.line] = await ranker.rank(given)
        tell(len(answers), len(lists))

    try:
        # Getting ready may take minutes, where a corpus is indexed.
        async with place.ranker(name, concurrency, suite) as ranker, asyncio.TaskGroup() as group:
            for given in lists:
                group.create_task(rank(given))
    except asyncio.CancelledError:
        done = [number for number in range(1, len(lists) + 1) if number in answers]
        raise Interrupted(tuple(_ranking(suite.topics[n - 1], answers[n]) for n in done)) from None
    warnings = Counter(
        warned.code for answer in answers.values() if not isinstance(answer, Failed) for warned in answer.warnings
    )
    description, stages = place.told(name, suite)
    return System(
        name,
        description,
        stages,
        tuple(_ranking(topic, answers[number]) for number, topic in enumerate(suite.topics, start=1)),
        tuple(f"{count:,} × {code}" for code, count in sorted(warnings.items())),
        kind,
    )


def narrowed(config: Config, name: str, concurrency: int, *, also: Sequence[str] = ()) -> Config:
    """Return the configuration with one pipeline, the models that it names and some more, and limits that let us."""
    section = config.pipelines[name]
    said = section.model_dump_json()
    return config.model_copy(
        update={
            "pipelines": {name: section},
            "models": {key: model for key, model in config.models.items() if key in also or f'"{key}"' in said},
            "collections": {},
            "server": config.server.model_copy(update={"default_pipeline": name}),
            "limits": config.limits.for_one_user(concurrency),
        }
    )


def _list(number: int, topic: Topic) -> CandidateList:
    ids = tuple(passage.docid for passage in topic.candidates)
    texts = tuple(passage.text for passage in topic.candidates)
    return CandidateList(
        number, topic.qid, topic.query, ids, ids, texts, tuple(passage.score for passage in topic.candidates)
    )


def _ranking(topic: Topic, answer: Answer) -> Ranking:
    if isinstance(answer, Failed):
        message = f"{answer.reason}: {answer.message}"
        return Ranking(topic.qid, (), completion=FAILED, spent=spent_of(answer.ledger), error=message)
    return Ranking(
        topic.qid,
        tuple(answer.list.ids[place] for place in answer.order),
        tuple(answer.scores),
        completion=answer.completion,
        spent=spent_of(answer.ledger),
        unchanged=tuple(answer.order) == tuple(range(len(answer.list.ids))),
    )


def spent_of(ledger: Ledger) -> Spent:
    """Return what a ledger says that a query took."""
    total = ledger.total()
    return Spent(
        calls=total.calls,
        rounds=ledger.rounds,
        questions=ledger.questions,
        pairs=total.pairs,
        prompt_tokens=total.prompt_tokens,
        cached_tokens=total.cached_tokens,
        output_tokens=total.output_tokens,
        retries=total.retries,
        cache_hits=total.cache_hits,
        truncated_documents=total.truncated_documents,
        # Beside what replies were, `repairs` counts what was done about them.
        replies=sum(total.repairs.get(repair.value, 0) for repair in Repair),
        malformed_replies=sum(total.repairs.get(repair.value, 0) for repair in MALFORMED),
        unreadable_replies=total.repairs.get(Repair.UNREADABLE.value, 0),
        cost_usd=None if total.cost_nano_usd is None else total.cost_nano_usd / 1e9,
        wall_s=ledger.wall_s,
        critical_path_s=ledger.critical_path_s,
    )


def _stage(section: StageSection) -> str:
    words = [section.name or section.strategy]
    words += [f"{key} {value}" for key, value in section.options.items()]
    words += [_named(model) for model in (section.model,) if model]
    words += [word for word in (section.scoring, section.prompt) if word]
    words += [f"keep {section.keep}"] if section.keep else []
    inner = [_stage(voice) for voice in (*section.of, *((section.base,) if section.base else ()))]
    return ", ".join(words) + (f" of ({'; '.join(inner)})" if inner else "")


def _named(model: Any) -> str:
    """Return a model's name, or the names by role."""
    return model if isinstance(model, str) else ", ".join(f"{role} {name}" for role, name in dict(model).items())
