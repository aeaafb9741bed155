"""Runs pipelines over a suite, in this process, through the same reranker that serves requests."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from podium_evals.results import Ranking, Spent, System
from podium_evals.suite import Suite, Topic
from podium_server import validate
from podium_server.accounting.ledger import Ledger
from podium_server.compose import Podium
from podium_server.config import Config, StageSection
from podium_server.errors import NotFound, PodiumError
from podium_server.ranking.request import Budget, Outcome, RankRequest
from podium_server.validate import GivenDocument
from podium_strategies.prompts.prompt import MALFORMED, Repair

Tell = Callable[[str, int, int], None]
"""Is told a system's name, how many queries are done, and of how many."""


def _silent(system: str, done: int, of: int) -> None:
    """Tell nobody."""


async def run_systems(
    suite: Suite,
    config: Config,
    pipelines: Sequence[str],
    *,
    concurrency: int = 1,
    budget: Budget | None = None,
    data_dir: Path | None = None,
    tell: Tell = _silent,
) -> list[System]:
    """Run pipelines one after another, each over all queries.

    Args:
        suite: with candidates.
        config: whose pipelines and models they are.
        pipelines: by name.
        concurrency: queries at work at the same time. Above 1, local models share the processors, and the latencies
            are those of a busy machine.
        budget: of each query.
        data_dir: where chat models' verdicts are remembered; None asks anew.
        tell: is told after every query.

    Raises:
        NotFound: no pipeline of that name, with the names that there are.

    """
    missing = [name for name in pipelines if name not in config.pipelines]
    if missing:
        raise NotFound("pipeline", missing[0], tuple(config.pipelines))
    podium = Podium(config, data_dir=data_dir, collections=False)
    try:
        await podium.start()  # the first query must not pay alone for loading the models
        return [await _run(suite, podium, name, concurrency, budget or Budget(), tell) for name in pipelines]
    finally:
        await podium.aclose()


async def _run(suite: Suite, podium: Podium, name: str, concurrency: int, budget: Budget, tell: Tell) -> System:
    places = asyncio.Semaphore(concurrency)
    done = 0
    warnings: Counter[str] = Counter()

    async def rank(topic: Topic) -> Ranking:
        nonlocal done
        async with places:
            ranking = await _rank(topic, podium, name, budget, warnings)
        done += 1
        tell(name, done, len(suite.topics))
        return ranking

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(rank(topic)) for topic in suite.topics]
    section = podium.config.pipelines[name]
    return System(
        name,
        section.description,
        tuple(_stage(stage) for stage in section.stages),
        tuple(task.result() for task in tasks),
        tuple(f"{count:,} × {code}" for code, count in sorted(warnings.items())),
    )


async def _rank(topic: Topic, podium: Podium, name: str, budget: Budget, warnings: Counter[str]) -> Ranking:
    if not topic.candidates:
        return Ranking(topic.qid, (), unchanged=True)
    documents = [GivenDocument(*passage) for passage in topic.candidates]
    try:
        query = validate.query(topic.query, podium.limits)
        candidates, mended = validate.documents(documents, podium.limits)
        request = RankRequest(query, candidates, pipeline=name, budget=budget)
        outcome = await podium.reranker.rerank(request, warnings=mended)
    except PodiumError as error:
        return Ranking(topic.qid, (), completion="failed", error=error.message)
    warnings.update(warned.code for warned in outcome.warnings)
    return _ranking(topic, outcome)


def _ranking(topic: Topic, outcome: Outcome) -> Ranking:
    return Ranking(
        topic.qid,
        tuple(topic.candidates[place].docid for place in outcome.order),
        tuple(outcome.scores[place] for place in outcome.order),
        completion=outcome.completion.value,
        spent=_spent(outcome.ledger),
        unchanged=outcome.order == tuple(range(len(topic.candidates))),
        error=outcome.cause,
    )


def _spent(ledger: Ledger) -> Spent:
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
        malformed_replies=sum(total.repairs.get(repair.value, 0) for repair in MALFORMED),
        unreadable_replies=total.repairs.get(Repair.UNREADABLE.value, 0),
        cost_usd=None if total.cost_nano_usd is None else total.cost_nano_usd / 1e9,
        wall_s=ledger.wall_s,
        critical_path_s=ledger.critical_path_s,
    )


def _stage(section: StageSection) -> str:
    words = [section.name or section.strategy]
    words += [f"{key} {value}" for key, value in section.options.items()]
    words += [word for word in (section.model, section.scoring, section.prompt) if word]
    words += [f"keep {section.keep}"] if section.keep else []
    inner = [_stage(voice) for voice in (*section.of, *((section.base,) if section.base else ()))]
    return ", ".join(words) + (f" of ({'; '.join(inner)})" if inner else "")
